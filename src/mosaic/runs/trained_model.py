"""Load a trained network: from a checkpoint in the folder of its run, or from exported weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.nets.blueprint import Blueprint, ClassifierFactory
from mosaic.nets.classifier import Classifier, versioned
from mosaic.runs.checkpoint import read_checkpoint
from mosaic.runs.directory import RunDirectory

Shape = tuple[int, int, int]
_GONE = ("image_size", "aux_logits")
"""Arguments of TorchvisionNet in 0.1.0, which wrote them into every configuration."""
_INPUT = "pixels in [0, 1], shape (batch, channels, height, width); normalisation is part of the network"


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained weights, in eval mode.

    Attributes:
        net: takes pixels in ``[0, 1]``.
        facts: for readers of its file: class names, image shape, network, its arguments and share of channels, as text.
    """

    net: Classifier
    facts: dict[str, str]

    def images(self, count: int) -> Tensor:
        """Return random images of the network's shape."""
        return torch.rand(count, *json.loads(self.facts["image_shape"]))

    def check(self, answer: Callable[[Tensor], Tensor], count: int) -> None:
        """Raise an AssertionError if ``answer`` gives other logits for a batch than the network."""
        images = self.images(count)
        with torch.no_grad():
            torch.testing.assert_close(answer(images), self.net(images), rtol=1e-3, atol=1e-4)


def find_checkpoint(source: Path) -> Path:
    """Return the checkpoint that holds a model: the given file, or the global model of the given run."""
    if source.is_file():
        return source
    if (whole := RunDirectory(source).checkpoint).is_file():
        return whole
    if own := sorted((source / "clients").glob("*.ckpt")):
        raise MosaicError(
            f"{source} has no global model, since its clients keep models of their own: choose one of {len(own)}, for "
            f"example {own[0]}"
        )
    raise MosaicError(f"{source}: expected the folder of a finished run, with a global.ckpt, or a .ckpt file")


def load_model(checkpoint: Path, factory: ClassifierFactory | None = None) -> TrainedModel:
    """Load a checkpoint into the network that the ``config.yaml`` of its run names for it.

    Args:
        checkpoint: of a global model, or of a client's own.
        factory: makes the network, in place of what the file names.

    Raises:
        MosaicError: the checkpoint cannot be read, or its network is not known or does not fit.
    """
    content = read_checkpoint(checkpoint)
    known = content["mosaic"]
    shape, names, level = tuple(known["image_shape"]), known["class_names"], known.get("level", 1.0)
    class_path, init_args = _network(checkpoint, known.get("client")) if factory is None else (str(factory), {})
    tensors = {name.removeprefix("net."): tensor for name, tensor in content["state_dict"].items()}
    try:
        net = _loaded(tensors, factory or _factory(class_path, init_args), level, shape, len(names))
    except MosaicError:
        raise
    except Exception as error:  # a network of one's own may raise anything
        raise MosaicError(f"{checkpoint} does not fit the network ({class_path}) of its run: {error}") from error
    facts = {
        "class_names": json.dumps(list(names)),
        "image_shape": json.dumps(list(shape)),
        "network": class_path,
        "init_args": json.dumps(init_args),
        "level": json.dumps(level),
        "input": _INPUT,
    }
    return TrainedModel(net, facts)


def load_safetensors(file: Path) -> TrainedModel:
    """Read back what ``mosaic export`` has written as safetensors; refuse files that hold something else."""
    with safe_open(file, "pt") as content:
        facts = dict(content.metadata() or {})
    try:
        shape, names = _image_shape(json.loads(facts["image_shape"])), json.loads(facts["class_names"])
        level = float(json.loads(facts["level"]))
        factory = _factory(facts["network"], json.loads(facts["init_args"]))
        net = _loaded(load_file(file), factory, level, shape, len(names))
    except (ArgumentError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MosaicError(f"{file}: expected what mosaic export writes, got something else ({error!r})") from error
    return TrainedModel(net, facts)


def _image_shape(value: object) -> tuple[int, int, int]:
    match value:
        case [int(channels), int(height), int(width)] if min(channels, height, width) > 0:
            return channels, height, width
    raise ValueError(f"image_shape: expected three positive whole numbers, got {value}")


def _network(checkpoint: Path, client: int | None) -> tuple[str, dict[str, Any]]:
    """Return class path and arguments of the run's network, or of a client's own architecture."""
    for folder in list(checkpoint.resolve().parents)[:2]:
        run = RunDirectory(folder)
        if run.config.is_file():
            config = run.read_config()
            try:
                net = config["model"]["net"]
            except (KeyError, TypeError) as error:
                raise MosaicError(f"{run.config}: expected the configuration of a run, with a model.net") from error
            dealt = (config.get("clients") or {}).get("models")
            if client is not None and dealt and dealt[client % len(dealt)] != "global":
                net = dealt[client % len(dealt)]
            return (net, {}) if isinstance(net, str) else (net["class_path"], dict(net.get("init_args") or {}))
    raise MosaicError(f"{checkpoint}: expected the config.yaml of its run beside it, which says what network it is of")


def _loaded(
    tensors: dict[str, Tensor], factory: ClassifierFactory, level: float, shape: Shape, classes: int
) -> Classifier:
    """Build a network with this share of channels, and load its weights."""
    blueprint = Blueprint(factory, shape, classes, mean=(), std=())
    net = blueprint.scaled(level).factory(shape, classes)
    net.load_state_dict(versioned(net, tensors))
    return net.eval()


def _factory(class_path: str, init_args: Mapping[str, Any]) -> ClassifierFactory:
    """Return what makes a network of this class, with arguments of the types that the class asks for."""
    net = _class(class_path)
    given = {key: value for key, value in init_args.items() if not (key in _GONE and value is None)}
    if not given:
        return net
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=ClassifierFactory)
    described = {"class_path": f"{net.__module__}.{net.__qualname__}", "init_args": given}
    made: ClassifierFactory = parser.instantiate(parser.parse_object({"net": described})).net
    return made


def _class(path: str) -> type[Classifier]:
    """Import a network's class, and refuse any other: a stranger's file could name one that does harm."""
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise MosaicError(
            f"the network of this model, {path}, cannot be imported ({error}): start where Python finds its file, or "
            "give the network to mosaic.load"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise MosaicError(
            f"the network of this model, {path}: expected a subclass of mosaic.nets.Classifier: not loaded; what else "
            "makes a network is given to mosaic.load, as net"
        )
    return found
