"""Dataset layouts, one a file."""
