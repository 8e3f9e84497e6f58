"""A generator that the server trains and keeps from round to round."""

import torch
from torch import Tensor, nn

from mosaic.messages import StateDict
from mosaic.nets.dcgan import Generator
from mosaic.seeding import seeded
from mosaic.server.context import RoundContext
from mosaic.server.shown import SHOWN_IMAGES, shown_labels
from mosaic.server.state import ServerState
from mosaic.tasks.generator_distillation import GeneratorDistillationSettings

LATEST = "generator.latest."
"""Prefix of the generator's tensors in the server's state."""


def load_generator(settings: GeneratorDistillationSettings, state: ServerState, context: RoundContext) -> Generator:
    """Return the last round's generator, or a new one."""
    blueprint = context.blueprint
    with seeded(context.seed_for("generator/init")):
        generator = settings.build_generator(blueprint.image_shape, blueprint.num_classes)
    known = tensors_below(LATEST, state.tensors)
    if known:
        generator.load_state_dict(known)
    return generator


@torch.no_grad()
def show_samples(generator: Generator, class_counts: Tensor, context: RoundContext) -> None:
    """Show samples of a conditional generator by the label that was wanted, of classes with counts ``(C,)``."""
    labels = shown_labels(class_counts, SHOWN_IMAGES)
    noise = torch.randn(len(labels), generator.latent_dim, generator=context.generator_for("samples"))
    context.recorder.images("synthesis/samples", generator.eval()(noise, labels), labels)


def tensors_of(network: nn.Module, prefix: str) -> StateDict:
    """Return a network's tensors, their names with this prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}


def tensors_below(prefix: str, tensors: StateDict) -> StateDict:
    """Return the tensors whose names have this prefix, without it.

    >>> tensors_below("a.", {"a.b": torch.ones(1), "c": torch.zeros(1)})
    {'b': tensor([1.])}
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
