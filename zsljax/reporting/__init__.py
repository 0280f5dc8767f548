"""What a run leaves for people: rows, tables, metrics over time."""
