"""Check that a node is the client it says it is: its key, its configuration and the images it announces."""

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.executors.remote.wire import Introduction, Terms
from mosaic.yaml_files import read_yaml

MOST_IMAGES = 2**31
_ROUNDING = 1 + 1e-9


def read_roster(path: str) -> dict[str, int]:
    """Return the client of each public key; the comment at the end of a key does not count.

    Args:
        path: YAML file that maps each client's number to its key in OpenSSH's format.

    Raises:
        MosaicError: it is no such file.
    """
    try:
        text = read_yaml(Path(path))
        entries, spelt = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)  # in which 010 is no 8
        if strange := [client for client in entries if type(client) is not int or client < 0]:
            raise ValueError(f"expected numbers of clients, got {strange[0]!r}")
        if guessed := [client for client in spelt if not client.isdecimal() or client != str(int(client))]:
            raise ValueError(f"expected numbers of clients in decimal digits, got {guessed[0]}")
        if keyless := [client for client, key in entries.items() if not isinstance(key, str) or len(key.split()) < 2]:
            raise ValueError(f"expected type and body of a key, got {entries[keyless[0]]!r} for client {keyless[0]}")
        found = {_bare(key): client for client, key in entries.items()}
        if len(found) < len(entries):
            raise ValueError("two clients have the same key")
        return found
    except (OSError, ValueError, AttributeError, TypeError, MosaicError, yaml.YAMLError) as error:
        why = " ".join(str(error).removeprefix(path).lstrip(":, ").split())[:120]
        raise MosaicError(
            f"executor.roster: expected a YAML file with a line `client: public key` for each client, got {path} "
            f"({why}): write it, or take the one of mosaic deploy"
        ) from error


def fault_of(who: Introduction, key: str, terms: Terms, roster: Mapping[str, int] | None) -> str | None:
    """Return what speaks against an introduction, if anything does.

    Args:
        who: what the node says.
        key: its public key; empty if it has none.
        terms: what the server knows.
        roster: each key's client; without one, nodes are believed.
    """
    if who.agreement != terms.agreement:
        return (
            f"client {str(who.client)[:20]} runs another configuration or version of mosaic: both ends need the same "
            "seed_everything, model, data (but for the source), algorithm, clients and privacy, and with "
            "privacy.local_training the same federation.schedule"
        )
    if roster is not None and roster.get(_bare(key)) != who.client:
        return f"it says that it is client {str(who.client)[:20]}, and its key is not that client's in the roster"
    unfit = _unfit(who, terms)
    return None if unfit is None else f"client {str(who.client)[:20]}: {unfit}"


def _unfit(who: Introduction, terms: Terms) -> str | None:
    counts = who.class_counts
    if not 0 <= who.client < terms.num_clients:
        return f"expected a number in 0..{terms.num_clients - 1}"
    if counts.shape != (terms.num_classes,) or counts.dtype != torch.int64:
        got = f"{str(counts.dtype).removeprefix('torch.')} of shape {tuple(counts.shape)}"
        return f"expected whole numbers of images for each of {terms.num_classes} classes, int64, got {got}"
    if int(counts.min()) < 0 or not 0 < sum(counts.tolist()) < MOST_IMAGES:
        return "expected numbers of images of at least 0, and an image to train on"
    channels, height, width = terms.image_shape
    if not terms.mean and not _are_sums(who.pixel_sums, channels, sum(counts.tolist()) * height * width):
        return f"expected number, sum and sum of squares of its pixels, float64 of shape (3, {channels})"
    return None


def _are_sums(sums: Tensor, channels: int, pixels: int) -> bool:
    """Whether so many numbers in ``[0, 1]`` can have this sum and this sum of squares, for each channel."""
    if sums.shape != (3, channels) or sums.dtype != torch.float64 or not sums.isfinite().all():
        return False
    count, total, squares = sums
    fits = (count == pixels) & (squares >= 0) & (squares <= total * _ROUNDING) & (total <= count * _ROUNDING)
    return bool((fits & (total**2 <= count * squares * _ROUNDING)).all())


def _bare(key: str) -> str:
    """Return type and body of a public key, without its comment."""
    return " ".join(key.split()[:2])
