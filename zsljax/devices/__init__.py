"""The mesh, precision of products, and processes."""
