"""Datasets that come inside a dependency."""
