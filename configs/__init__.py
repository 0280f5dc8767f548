"""Configs, one file a system; the argument picks the dataset."""
