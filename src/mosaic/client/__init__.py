"""The client's half: what it minimises, what it tells of its data, and the worker that answers requests."""
