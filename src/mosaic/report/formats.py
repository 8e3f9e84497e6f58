"""Formats of an exported model: how each is written, and read back for a test."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.runs.trained_model import TrainedModel, load_safetensors

Network = Callable[[Tensor], Tensor]
"""Pixels to logits."""
_ANY_BATCH = ({0: torch.export.Dim("batch", min=1)},)


class Form(NamedTuple):
    """A file format: its suffix, its writer and its reader."""

    suffix: str
    write: Callable[[TrainedModel, Path], None]
    read: Callable[[Path], Network]


def _write_safetensors(model: TrainedModel, file: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model.net.state_dict().items()}
    file.write_bytes(safetensors.torch.save(tensors, model.facts))


def _write_program(model: TrainedModel, file: Path) -> None:
    program = torch.export.export(model.net, (model.images(2),), dynamic_shapes=_ANY_BATCH)
    with file.open("wb") as stream:
        torch.export.save(program, stream, extra_files={"mosaic.json": json.dumps(model.facts)})


def _read_program(file: Path) -> Network:
    with file.open("rb") as stream:
        program: Network = torch.export.load(stream).module()
    return program


def _write_onnx(model: TrainedModel, file: Path) -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MosaicError(f"--format onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    import onnx

    program = torch.onnx.export(
        model.net,
        (model.images(2),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_ANY_BATCH,
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "the exporter returns a program where it is given no file"
    proto = program.model_proto  # made anew whenever it is asked for
    onnx.helper.set_model_props(proto, model.facts)
    onnx.save(proto, file)


def _read_onnx(file: Path) -> Network:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(file.read_bytes())
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


FORMATS = {
    "safetensors": Form(".safetensors", _write_safetensors, lambda file: load_safetensors(file).net),
    "onnx": Form(".onnx", _write_onnx, _read_onnx),
    "torch": Form(".pt2", _write_program, _read_program),
}
