"""Results for people: rows, tables, pictures, metrics over time."""
