"""Ask networks about generated images."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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
