"""Differential privacy that every client enforces itself: settings, accounting, noise, releases and the ledger."""

from mosaic.privacy.settings import Privacy, Shares

__all__ = ["Privacy", "Shares"]
