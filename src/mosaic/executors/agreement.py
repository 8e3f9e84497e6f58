"""Checksums of the version and settings that all parties of a run must share."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mosaic import __version__


def agreement(config: Mapping[str, Any]) -> str:
    """Return a checksum of what all parties must have in common: the version, and the common settings."""
    return _checksum({"version": __version__, **_common(config)})


def common_settings(config: Mapping[str, Any]) -> str:
    """Return a checksum of the settings that decide about results, the same in all versions.

    Each party has its own images, devices and folders. The schedule is the server's alone, unless clients spread their
    noise over its steps.
    """
    return _checksum(_common(config))


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in config["data"].items() if key not in ("source", "device_cache")}
    common = {key: config[key] for key in ("seed_everything", "model", "algorithm", "clients")}
    if privacy := config.get("privacy"):
        common["privacy"] = privacy
        common |= {"schedule": config["federation"]["schedule"]} if privacy.get("local_training") == "dp_sgd" else {}
    return {"data": data, **common}


def _checksum(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
