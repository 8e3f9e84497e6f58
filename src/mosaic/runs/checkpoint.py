"""The global model, or a client's own, as a Lightning checkpoint."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from mosaic.disk import write_whole
from mosaic.errors import MosaicError
from mosaic.messages import StateDict

_FACTS = "mosaic"


def save_checkpoint(path: Path, model: StateDict, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint that ``Trainer.test`` and ``GlobalClassifier`` load, whole or not at all.

    Args:
        path: of the file.
        model: weights of the model, normalisation included.
        facts: what a reader should know, as plain values: rounds, image shape, class names.
    """
    checkpoint = {
        "state_dict": {f"net.{name}": tensor.cpu() for name, tensor in model.items()},
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        _FACTS: dict(facts),
    }
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_whole(path, buffer.getbuffer())


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same weights, bit for bit."""
    ours, theirs = (torch.load(path, weights_only=True)["state_dict"] for path in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def read_checkpoint(file: Path, option: str = "") -> dict[str, Any]:
    """Return what a model's checkpoint holds; its tensors are mapped from the file.

    Raises:
        MosaicError: it is none, which is told as the mistake of an option if one is given.
    """
    named = f"{option}: {file}" if option else str(file)
    if not file.is_file():
        raise MosaicError(f"{named} is no file: expected the global.ckpt that `mosaic fit` writes in its run_dir")
    try:
        checkpoint = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # a corrupt file raises whatever zip or pickle raise
        raise MosaicError(
            f"{named} is not a readable checkpoint ({type(error).__name__}): expected a global.ckpt"
        ) from error
    if not isinstance(checkpoint, dict) or _FACTS not in checkpoint:
        raise MosaicError(f"{named} was not written by mosaic: expected the global.ckpt of a run directory")
    return checkpoint
