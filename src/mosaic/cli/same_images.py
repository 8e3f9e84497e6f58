"""Check that ``validate``, ``test`` and ``predict`` get the classes of a checkpoint, and the split of its run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mosaic.errors import MosaicError, abridged
from mosaic.runs.directory import RunDirectory
from mosaic.yaml_files import differences

log = logging.getLogger(__name__)
_SAME_IMAGES = ("memory_limit_gib", "cache_dir")
"""Arguments of sources that decide where images lie, not which ones they are."""


def check_classes(checkpoint: Mapping[str, Any], class_names: Sequence[str]) -> None:
    """Refuse images of other classes than those that a checkpoint was trained for, or in another order.

    Raises:
        MosaicError: they are others.
    """
    known, names = (tuple(each) for each in (checkpoint["mosaic"].get("class_names", class_names), class_names))
    if known == names:
        return
    pairs = zip(known, names, strict=False)
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(known), len(names)))
    raise MosaicError(
        f"data.source: expected the {len(known)} classes that the checkpoint was trained for, {_list(known, place)}, "
        f"got {len(names)}, {_list(names, place)}: use the images of its run (config.yaml beside the checkpoint), or "
        "give the classes the same names and order"
    )


def warn_of_another_split(checkpoint: Path, data: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Log which of these keys of ``data`` differ from those of the run that has written a checkpoint, if any do."""
    folder = checkpoint.absolute().parent
    run = RunDirectory(folder.parent if folder.name == "clients" else folder)
    if not run.config.is_file() or (config := run.read_config()).get("from_objects"):
        return
    before, now = ({key: each.get(key) for key in keys} for each in (config["data"], data))
    changed = [key for key in differences(before, now, "data.") if key.rpartition(".")[2] not in _SAME_IMAGES]
    if changed:
        log.warning(
            "%s: not as in %s, so these are not the images that the run has kept apart: the model may have been "
            "trained on some",
            *(", ".join(sorted(changed)), run.config),
        )


def _list(names: Sequence[str], place: int) -> str:
    """Return the first names, or where lists first differ beyond these, those from there on."""
    return f"({abridged(names) if place < 5 else f'..., {abridged(names[place:])}'})"
