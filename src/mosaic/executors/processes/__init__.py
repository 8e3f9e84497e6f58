"""Processes of one machine or launch share the clients out."""
