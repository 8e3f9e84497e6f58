"""Clients on hosts of their own: the executor that asks them, and the engine that carries its messages."""
