"""Federated learning for clients whose data and models differ, without any real data leaving a client."""

__version__ = "0.1.0"
