"""``mosaic export``: write a run's model as weights, as ONNX, or as a program of ``torch.export``."""

import tempfile
from pathlib import Path
from typing import Literal

from mosaic.disk import make_writable
from mosaic.errors import MosaicError, first_line

Format = Literal["safetensors", "onnx", "torch"]
_BATCHES = (1, 2, 7)
"""Batch sizes on which every written file is tested."""


def export(source: Path, format: Format = "safetensors", output: Path | None = None) -> Path:
    """Write a trained model with its normalisation and class names; return the written file.

    It is loaded again, and must answer batches of every size as the network does; else nothing is left.

    Args:
        source: folder of a run, or a .ckpt file in it, such as clients/03.ckpt where clients keep models of their own.
        format: safetensors holds weights, onnx and torch hold programs that need no mosaic.
        output: file to write; beside the checkpoint when not given.
    """
    from mosaic.report.formats import FORMATS  # imports torch, which --help need not wait for
    from mosaic.runs.trained_model import find_checkpoint, load_model

    chosen, checkpoint = FORMATS[format], find_checkpoint(source)
    others = {other.suffix: name for name, other in FORMATS.items() if other is not chosen}
    if output is not None and output.suffix in others:
        raise MosaicError(
            f"--output: expected a name that does not end as files of another format do, got {output} with --format "
            f"{format}: give --format {others[output.suffix]}, or another name"
        )
    output = output or checkpoint.with_suffix(chosen.suffix)
    if output.exists():
        raise MosaicError(f"{output} exists and is never overwritten: choose another --output, or move it away")
    model = load_model(checkpoint)
    make_writable(output.parent, "--output")
    advice = (
        "give --format torch or onnx, which hold programs"
        if chosen.suffix == ".safetensors"
        else "a size that Python has worked out (len(x), int(x.shape[0])) is fixed in the file: take x.shape[0] or -1 "
        "in the network's forward, or export safetensors"
    )
    with tempfile.TemporaryDirectory(prefix=".mosaic-export-", dir=output.parent) as folder:
        aside = Path(folder) / output.name
        try:
            chosen.write(model, aside)
            answer = chosen.read(aside)
        except (MosaicError, OSError):
            raise
        except Exception as error:  # each exporter has errors of its own, some of a hundred lines
            raise MosaicError(
                f"--format {format}: the network cannot be written ({first_line(error)}): {advice}"
            ) from error
        for count in _BATCHES:
            try:
                model.check(answer, count)
            except Exception as error:
                raise MosaicError(
                    f"--format {format}: the file was written and does not answer a batch of {count} as the network "
                    f"does ({first_line(error)}): {advice}"
                ) from error
        aside.replace(output)
    return output
