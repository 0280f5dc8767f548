"""Verbs of two words, ``zsljax data ACTION``."""
