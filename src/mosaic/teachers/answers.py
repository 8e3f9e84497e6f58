"""Ask networks about generated images."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from mosaic.nets.classifier import ImageShape
from mosaic.nets.inference import images_at_once
from mosaic.server.generators import GeneratedImages
from mosaic.transfer import bring

ABSENT = -30.0
"""Logit of a class that is ruled out: far below any other, yet finite, so that no divergence becomes infinite."""


def ask_teacher(teacher: nn.Module, images: Tensor) -> Tensor:
    """Return the teacher's answers to pixels ``(M, channels, H, W)``, M at least 1, in chunks, on their device."""
    bring(teacher, images.device)
    if teacher.training:  # setting the mode of a hundred experts takes a while, even if they have it
        teacher.eval()
    with torch.inference_mode():
        answers = [teacher(batch) for batch in images.split(images_at_once(images, images.device))]
    return torch.cat(answers)  # out here it gives tensors that a loss may use


def takes_generated(network: nn.Module, image_shape: ImageShape) -> bool:
    """Return whether a network answers generated images with their owners and labels, as a teacher must."""
    own = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    none = torch.zeros(2, dtype=torch.long, device=own.device)
    blank = GeneratedImages(torch.zeros(2, *image_shape, device=own.device), none, none)
    mode = network.training
    try:
        with torch.no_grad():
            network.eval()(blank)
    except Exception:  # whatever its own code raises
        return False
    finally:
        network.train(mode)
    return True


def neutralise_unknown_classes(
    unknown: Tensor, answers: Tensor, source: GeneratedImages, origin_counts: bool
) -> Tensor:
    """Make answers neutral about classes that nobody who was asked knows.

    Generators of absent clients, and of those whose prototypes are missing, still draw such classes, which experts or
    prototypes would rule out.

    Args:
        unknown: whether nobody knows a class, shape ``(C,)``.
        answers: logits, shape ``(M, C)``.
        source: the images that were asked about.
        origin_counts: whether images have been drawn as a class, which is then counted beside the answer.

    Returns:
        Logits ``(M, C)``: of unknown classes the mean of the others. For images that were drawn as an unknown class all
        are alike, if their origin then decides; so they are for all images if no class is known.
    """
    if unknown.all():
        return torch.zeros_like(answers)
    unknown = unknown.to(answers.device)
    mean = answers[:, ~unknown].mean(1, keepdim=True)
    neutral = torch.where(unknown, mean, answers)
    return torch.where(unknown[source.labels][:, None], mean, neutral) if origin_counts else neutral


@torch.no_grad()
def ask_owners(models: Mapping[int, nn.Module], source: GeneratedImages, class_counts: Tensor) -> Tensor:
    """Return what each image's owner, the client whose generator made it, says of it, among that client's classes.

    Args:
        models: classifier of every owner, by its place among the generators.
        source: generated images with their owners.
        class_counts: of the owners, shape ``(N, C)``.

    Returns:
        Log-probabilities ``(M, C)`` on the images' device; classes that the owner does not hold are negligible.
    """
    logits = torch.empty(len(source.images), class_counts.shape[1], device=source.images.device)
    for owner in source.owners.unique().tolist():
        own = source.owners == owner
        logits[own] = ask_teacher(models[owner], source.images[own])
    absent = (class_counts == 0).to(logits.device)[source.owners]
    return logits.masked_fill(absent, -torch.inf).log_softmax(-1).clamp(min=ABSENT)
