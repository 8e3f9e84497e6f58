"""Take a run's model elsewhere: as plain weights, as ONNX, or as a program of ``torch.export``."""

import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from mosaic.errors import MosaicError

if TYPE_CHECKING:
    from torch import Tensor

    from mosaic.nets.classifier import Classifier

Format = Literal["safetensors", "onnx", "torch"]
_SUFFIX: dict[Format, str] = {"safetensors": ".safetensors", "onnx": ".onnx", "torch": ".pt2"}
_BATCHES = (1, 2, 7)
"""Sizes that every written file is asked about."""
_INPUT = "pixels in [0, 1], shape (batch, channels, height, width); normalisation is part of the network"


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained weights, in eval mode, and what a reader of its file must know.

    Attributes:
        net: takes pixels in ``[0, 1]``.
        facts: class names, image shape, network, its arguments and the share of its channels, each as text.
    """

    net: "Classifier"
    facts: dict[str, str]


def export(source: Path, format: Format = "safetensors", output: Path | None = None) -> Path:
    """Write a trained model with its normalisation and class names.

    Args:
        source: folder of a run, or a .ckpt file in it, such as clients/03.ckpt where clients keep models of their own.
        format: safetensors holds weights, onnx and torch hold programs that need no mosaic.
        output: file to write; beside the checkpoint when not given.

    Returns:
        The written file.

    Raises:
        MosaicError: there is no such model, the file exists, a package is missing, or what was written does not answer
            batches of every size as the network does; nothing is left then.
    """
    checkpoint = find_checkpoint(source)
    output = output or checkpoint.with_suffix(_SUFFIX[format])
    if output.exists():
        raise MosaicError(f"{output} exists and is never overwritten: choose another --output, or move it away")
    write = {"safetensors": _write_safetensors, "onnx": _write_onnx, "torch": _write_program}[format]
    read = {"safetensors": _read_safetensors, "onnx": _read_onnx, "torch": _read_program}[format]
    if format == "onnx":
        _check_onnx()
    model = load_model(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.name}.tmp")
    try:
        _write_checked(model, aside, format, write, read)
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)
    return output


def _write_checked(
    model: TrainedModel,
    file: Path,
    format: Format,
    write: Callable[[TrainedModel, Path], None],
    read: Callable[[Path], Callable[["Tensor"], "Tensor"]],
) -> None:
    """Write a model, load it again and ask it about batches of several sizes.

    Raises:
        MosaicError: it cannot be written, or answers otherwise than the network.
    """
    import torch

    advice = (
        "a size that Python has worked out (len(x), int(x.shape[0])) is fixed in the file: take x.shape[0] or -1 in "
        "the network's forward, or export safetensors"
    )
    try:
        write(model, file)
        answer = read(file)
    except MosaicError:
        raise
    except Exception as error:  # each exporter has errors of its own, some of a hundred lines
        raise MosaicError(
            f"--format {format}: the network cannot be written ({_first_line(error)}): {advice}"
        ) from error
    for count in _BATCHES:
        images = torch.rand(count, *json.loads(model.facts["image_shape"]))
        with torch.no_grad():
            expected = model.net(images)
        try:
            torch.testing.assert_close(answer(images), expected, rtol=1e-3, atol=1e-4)
        except Exception as error:
            raise MosaicError(
                f"--format {format}: the file was written and does not answer a batch of {count} as the network does "
                f"({_first_line(error)}): {advice}"
            ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def find_checkpoint(source: Path) -> Path:
    """Return the checkpoint that is meant.

    Raises:
        MosaicError: there is none.
    """
    if source.is_file():
        return source
    if (source / "global.ckpt").is_file():
        return source / "global.ckpt"
    own = sorted((source / "clients").glob("*.ckpt"))
    if own:
        raise MosaicError(
            f"{source} has no global model, since its clients keep models of their own: choose one of {len(own)}, for "
            f"example {own[0]}"
        )
    raise MosaicError(f"{source}: expected the folder of a finished run, with a global.ckpt, or a .ckpt file")


def load_model(checkpoint: Path) -> TrainedModel:
    """Build the network that the run's ``config.yaml`` names, for the client if it is one's own, and load it.

    Raises:
        MosaicError: checkpoint or configuration cannot be read, or do not fit each other.
    """
    import torch

    from mosaic.nets.classifier import versioned
    from mosaic.runs.checkpoint import check_checkpoint

    check_checkpoint(str(checkpoint))
    content = torch.load(checkpoint, weights_only=True, map_location="cpu")
    known = content["mosaic"]
    shape, names, level = tuple(known["image_shape"]), known["class_names"], known.get("level", 1.0)
    class_path, init_args = _network(checkpoint, known.get("client"))
    try:
        net = _build(class_path, init_args, level, shape, len(names))
        tensors = {name.removeprefix("net."): tensor for name, tensor in content["state_dict"].items()}
        net.load_state_dict(versioned(net, tensors))
    except (TypeError, RuntimeError) as error:
        raise MosaicError(f"{checkpoint} does not fit the network ({class_path}) of its run: {error}") from error
    facts = {
        "class_names": json.dumps(list(names)),
        "image_shape": json.dumps(list(shape)),
        "network": class_path,
        "init_args": json.dumps(init_args),
        "level": json.dumps(level),
        "input": _INPUT,
    }
    return TrainedModel(net.eval(), facts)


def load_safetensors(file: Path) -> TrainedModel:
    """Read back what :func:`export` has written as safetensors.

    Raises:
        MosaicError: the file holds something else, or names a class that is no network.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    from mosaic.nets.classifier import versioned

    with safe_open(file, "pt") as content:
        facts = dict(content.metadata() or {})
    try:
        shape, names = _image_shape(json.loads(facts["image_shape"])), json.loads(facts["class_names"])
        level = float(json.loads(facts.get("level", "1.0")))
        net = _build(facts["network"], dict(json.loads(facts["init_args"])), level, shape, len(names))
        net.load_state_dict(versioned(net, load_file(file)))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MosaicError(f"{file}: expected what mosaic export writes, got something else ({error!r})") from error
    return TrainedModel(net.eval(), facts)


def _image_shape(value: object) -> tuple[int, int, int]:
    """Check the shape of images that a file names.

    Raises:
        ValueError: it is no list of channels, height and width.
    """
    match value:
        case [int(channels), int(height), int(width)] if min(channels, height, width) > 0:
            return channels, height, width
    raise ValueError(f"image_shape: expected three positive whole numbers, got {value}")


def _network(checkpoint: Path, client: int | None) -> tuple[str, dict[str, Any]]:
    """Return class path and arguments of the run's network, or of the architecture that a client was dealt."""
    for folder in list(checkpoint.resolve().parents)[:2]:
        if (folder / "config.yaml").is_file():
            config = yaml.safe_load((folder / "config.yaml").read_text())
            try:
                net = config["model"]["net"]
            except (KeyError, TypeError) as error:
                raise MosaicError(
                    f"{folder / 'config.yaml'}: expected the configuration of a run, with a model.net"
                ) from error
            dealt = (config.get("clients") or {}).get("models")
            if client is not None and dealt and dealt[client % len(dealt)] != "global":
                net = dealt[client % len(dealt)]
            return (net, {}) if isinstance(net, str) else (net["class_path"], dict(net.get("init_args") or {}))
    raise MosaicError(f"{checkpoint}: expected the config.yaml of its run beside it, which says what network it is of")


def _build(
    class_path: str, init_args: dict[str, Any], level: float, shape: tuple[int, int, int], classes: int
) -> "Classifier":
    """Return a network of this class with this share of its channels, its weights yet to be loaded."""
    from mosaic.nets.blueprint import Blueprint

    blueprint = Blueprint(partial(_class(class_path), **init_args), shape, classes, mean=(), std=())
    return blueprint.scaled(level).factory(shape, classes)


def _class(path: str) -> type["Classifier"]:
    """Import a network's class; files come from strangers, and another class might do anything when it is called."""
    from mosaic.nets.classifier import Classifier

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MosaicError(
            f"the network of this model, {path}, cannot be imported ({error}): start where Python finds its file"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise MosaicError(
            f"the network of this model, {path}: expected a subclass of mosaic.nets.Classifier: not loaded"
        )
    return found


def _write_safetensors(model: TrainedModel, file: Path) -> None:
    from safetensors.torch import save

    file.write_bytes(save({name: t.contiguous() for name, t in model.net.state_dict().items()}, model.facts))


def _read_safetensors(file: Path) -> Callable[["Tensor"], "Tensor"]:
    return load_safetensors(file).net


def _write_program(model: TrainedModel, file: Path) -> None:
    import torch

    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(model.net, (_example(model),), dynamic_shapes=(batch,))
    with file.open("wb") as stream:
        torch.export.save(program, stream, extra_files={"mosaic.json": json.dumps(model.facts)})


def _read_program(file: Path) -> Callable[["Tensor"], "Tensor"]:
    import torch

    with file.open("rb") as stream:
        program: Callable[[Tensor], Tensor] = torch.export.load(stream).module()
    return program


def _write_onnx(model: TrainedModel, file: Path) -> None:
    import onnx
    import torch

    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.onnx.export(
        model.net,
        (_example(model),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=(batch,),
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "the exporter returns a program where it is given no file"
    proto = program.model_proto
    onnx.helper.set_model_props(proto, model.facts)
    onnx.save(proto, file)


def _read_onnx(file: Path) -> Callable[["Tensor"], "Tensor"]:
    import onnxruntime  # type: ignore[import-untyped]
    import torch

    session = onnxruntime.InferenceSession(file.read_bytes())
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _example(model: TrainedModel) -> Any:
    import torch

    return torch.rand(2, *json.loads(model.facts["image_shape"]))


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise MosaicError(f"--format onnx needs {' and '.join(missing)}: pip install 'mosaic[onnx]'")
