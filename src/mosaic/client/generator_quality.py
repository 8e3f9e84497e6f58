"""How good a client's generator is, measured where its images are: numbers leave the client, images do not."""

import copy
import math

import torch
from torch import Tensor

from mosaic.nets.classifier import Classifier
from mosaic.nets.image_generator import ImageGenerator
from mosaic.nets.inference import to_pixels
from mosaic.transfer import send

MOST_TRAINING_IMAGES = 2000
"""Training images that are compared at most, so that a client with 50,000 is measured in seconds."""
MOST_HELD_OUT_IMAGES = 512
"""Held-out images that are compared at most."""
_CHUNK = 128
"""Images that a network sees at a time."""


def class_coverage(predicted: Tensor, class_counts: Tensor) -> float:
    """Return the overlap of the classes that a generator makes with those that its owner holds.

    With q the shares of the predicted classes and p the shares of the counted ones this is ``sum_c min(q_c, p_c)``,
    one minus their total variation distance.

    Args:
        predicted: classes seen in generated images, shape ``(M,)``, M at least 1.
        class_counts: the owner's images per class, shape ``(C,)``, not all 0.

    Returns:
        A share in ``[0, 1]``: 1 when every class is made as often as it is held, 0 when none of them is.

    Raises:
        ValueError: there is nothing to compare, or a predicted class has no count.

    >>> class_coverage(torch.tensor([0, 0, 1, 1]), torch.tensor([30, 10, 0]))
    0.75
    """
    seen = torch.bincount(predicted, minlength=len(class_counts))
    images, held = int(seen.sum()), int(class_counts.sum())
    if images == 0 or held == 0 or len(seen) != len(class_counts):
        raise ValueError(
            "class_coverage: expected at least one prediction and one counted image, and a count for every predicted "
            f"class, got {images} predictions up to class {len(seen) - 1} and {held} images of {len(class_counts)} "
            "classes: measure only clients that hold images, with a classifier of the same classes"
        )
    overlap = torch.minimum(seen * held, class_counts * images).sum()  # whole numbers: the bounds hold exactly
    return int(overlap) / (images * held)


def nearest_neighbour_ratio(generated: Tensor, training: Tensor, held_out: Tensor, chunk: int = 512) -> float | None:
    """Return how near generated images lie to training images, in units of what is usual for unseen real images.

    It is the median Euclidean distance from a generated image to the nearest training image, divided by the same
    median for held-out images. That such distances show copying is Meehan et al.'s observation (2020, arXiv
    2004.05675); their test statistic is another one.

    Args:
        generated: pixels in ``[0, 1]``, shape ``(M, channels, H, W)``, M at least 1.
        training: what the generator was trained on, shape ``(N, channels, H, W)``, N at least 1.
        held_out: real images of the same kind that it was not trained on, shape ``(K, channels, H, W)``.
        chunk: images of each side that are compared at a time; it bounds the memory and changes nothing else.

    Returns:
        A ratio of at least 0: about 1 for a generator that generalises, well below 1 for one that repeats its training
        images, well above 1 for one whose images are like none of them. ``None`` where there is no finite one: nothing
        is held out, most held-out images are training images too, or generated pixels are not finite.

    >>> training = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    >>> held_out = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).view(2, 1, 1, 2)
    >>> nearest_neighbour_ratio(training, training, held_out)
    0.0
    >>> nearest_neighbour_ratio(held_out.flip(0), training, held_out)
    1.0
    """
    if len(held_out) == 0:
        return None
    made, usual = (_nearest_distances(images, training, chunk).quantile(0.5) for images in (generated, held_out))
    ratio = float(made / usual)
    return ratio if math.isfinite(ratio) else None


@torch.no_grad()
def measure_generator(
    generator: ImageGenerator,
    guide: Classifier,
    train_pixels: Tensor,
    class_counts: Tensor,
    validation_pixels: Tensor,
    device: torch.device,
    seed: int,
    count: int = 512,
) -> dict[str, float]:
    """Draw images from a client's generator and compare them with the client's own.

    At most 2,000 training images and 512 held-out ones are compared, the first of a seeded permutation, so that a
    client with 50,000 images is measured in seconds. Both networks are copied: they stay where and as they are.

    Args:
        generator: the one to judge.
        guide: the classifier that says which class an image shows.
        train_pixels: images that the generator was trained on, uint8, shape ``(n, channels, H, W)``, n at least 1.
        class_counts: these images per class, shape ``(C,)``; labels for a conditional generator are drawn from them.
        validation_pixels: the client's held-out images of the same classes, uint8, shape ``(m, channels, H, W)``.
        device: where to compute.
        seed: of labels, noise and the choice of images; the caller's random streams are not touched.
        count: images to draw.

    Returns:
        ``coverage`` (:func:`class_coverage`) and ``nearest_neighbour_ratio`` (:func:`nearest_neighbour_ratio`); the
        latter is left out where there is none.
    """
    random = torch.Generator().manual_seed(seed)
    class_counts = class_counts.cpu()
    images = _draw(send(copy.deepcopy(generator), device).eval(), class_counts, device, random, count)
    judge = send(copy.deepcopy(guide), device).eval()
    predicted = torch.cat([judge(batch).argmax(-1) for batch in images.split(_CHUNK)]).cpu()
    training, held_out = (
        to_pixels(send(_choose(pixels, most, random), device))
        for pixels, most in ((train_pixels, MOST_TRAINING_IMAGES), (validation_pixels, MOST_HELD_OUT_IMAGES))
    )
    quality = {"coverage": class_coverage(predicted, class_counts)}
    ratio = nearest_neighbour_ratio(images, training, held_out)
    return quality if ratio is None else {**quality, "nearest_neighbour_ratio": ratio}


def _nearest_distances(images: Tensor, training: Tensor, chunk: int) -> Tensor:
    """Return the distance of each image to the nearest training image, shape ``(M,)``."""
    blocks = training.flatten(1).split(chunk)
    return torch.cat([_nearest(batch, blocks) for batch in images.flatten(1).split(chunk)])


def _nearest(points: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
    """Return the distance of each point ``(B, D)`` to the nearest point of all blocks, shape ``(B,)``."""
    nearest = torch.full_like(points[:, 0], math.inf)
    for block in blocks:
        # cdist multiplies matrices, which is fast but no zero for a copy: it names the neighbour, the difference counts
        neighbours = block[torch.cdist(points, block).argmin(1)]
        nearest = torch.minimum(nearest, (points - neighbours).norm(dim=1))
    return nearest


def _draw(
    generator: ImageGenerator, class_counts: Tensor, device: torch.device, random: torch.Generator, count: int
) -> Tensor:
    """Return generated pixels; labels and noise come from the CPU, so that the device does not matter."""
    labels = torch.multinomial(class_counts.double(), count, replacement=True, generator=random)
    noise = torch.randn(count, generator.latent_dim, generator=random)
    batches = zip(send(noise, device).split(_CHUNK), send(labels, device).split(_CHUNK), strict=True)
    return torch.cat([generator(*batch) for batch in batches])


def _choose(pixels: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Return at most so many images, by chance."""
    return pixels[torch.randperm(len(pixels), generator=random)[:most]]
