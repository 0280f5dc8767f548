"""Experiments: built, recorded, swept and reproduced."""
