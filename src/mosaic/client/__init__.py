"""The client's half of an algorithm: local objectives, summaries of its data, and the worker that answers requests."""
