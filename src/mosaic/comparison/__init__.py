"""Several algorithms on the same data, clients, seeds and budget, in one table."""
