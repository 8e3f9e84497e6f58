"""A checksum by which processes of one run know each other."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mosaic import __version__


def agreement(config: Mapping[str, Any]) -> str:
    """Return a checksum of what all parties must have in common: the version, and what decides about results.

    Each party has its own images, devices and folders; the schedule is the server's alone.
    """
    data = {key: value for key, value in config["data"].items() if key not in ("source", "device_cache")}
    common = {key: config[key] for key in ("seed_everything", "model", "algorithm", "clients")}
    common |= {"privacy": config["privacy"]} if config.get("privacy") else {}
    text = json.dumps({"version": __version__, "data": data, **common}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
