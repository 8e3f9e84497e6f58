"""Measure a client's generator on the client: only numbers leave it, no images."""

import copy
import math

import torch
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.nets.classifier import Classifier
from mosaic.nets.image_generator import ImageGenerator
from mosaic.nets.inference import to_pixels
from mosaic.transfer import send

MOST_TRAINING_IMAGES = 2000
MOST_HELD_OUT_IMAGES = 512
_CHUNK = 128
"""Batch size of a network's forward pass."""
_LOOKED_AT, _ROUNDING = 8, 1e-3


def class_coverage(predicted: Tensor, class_counts: Tensor) -> float:
    """Return the overlap between the classes of generated images and those of the client's images.

    With q the shares of the predicted classes and p the shares of the client's, this is ``sum_c min(q_c, p_c)``, one
    minus their total variation distance.

    Args:
        predicted: predicted classes of generated images, shape ``(M,)``, M at least 1.
        class_counts: the client's images per class, shape ``(C,)``, not all 0.

    Returns:
        A share in ``[0, 1]``: 1 if the shares are equal, 0 if no class is in both.

    Raises:
        ValueError: there are no predictions or no images, or a predicted class has no count.

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
    overlap = torch.minimum(seen * held, class_counts * images).sum()  # in integers the bounds hold exactly
    return int(overlap) / (images * held)


def nearest_neighbour_ratio(generated: Tensor, training: Tensor, held_out: Tensor, chunk: int = 512) -> float | None:
    """Return how near generated images lie to training images, relative to held-out real images.

    This is the median Euclidean distance from a generated image to the nearest training image, divided by the same
    median for held-out images. Meehan et al. (2020, arXiv 2004.05675) observe that such distances show copying; their
    test statistic is a different one.

    Args:
        generated: pixels in ``[0, 1]``, shape ``(M, channels, H, W)``, M at least 1.
        training: the generator's training images, shape ``(N, channels, H, W)``, N at least 1.
        held_out: real images that it was not trained on, shape ``(K, channels, H, W)``.
        chunk: images of each side to compare at a time; it bounds the memory only.

    Returns:
        A ratio of at least 0: about 1 if the generator generalises, well below 1 if it copies training images, well
        above 1 if its images resemble none. ``None`` if the ratio is not finite: no images are held out, most held-out
        images are training images too, or generated pixels are not finite.

    >>> training = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).view(2, 1, 1, 2)
    >>> held_out = torch.tensor([[0.0, 0.5], [1.0, 0.5]]).view(2, 1, 1, 2)
    >>> nearest_neighbour_ratio(training, training, held_out)
    0.0
    >>> nearest_neighbour_ratio(held_out.flip(0), training, held_out)
    1.0
    """
    if len(held_out) == 0:
        return None
    made, usual = (nearest_distances(images, training, chunk).quantile(0.5) for images in (generated, held_out))
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

    At most 2,000 training images and 512 held-out images are compared, chosen at random, so that a client with 50,000
    images is measured in seconds. Both networks are copied and stay unchanged.

    Args:
        generator: the generator to measure.
        guide: the classifier that predicts the class of an image.
        train_pixels: the generator's training images, uint8, shape ``(n, channels, H, W)``, n at least 1.
        class_counts: these images per class, shape ``(C,)``; labels for a conditional generator are drawn from them.
        validation_pixels: the client's held-out images of the same classes, uint8, shape ``(m, channels, H, W)``.
        device: device to compute on.
        seed: seed of labels, noise and the choice of images; global random streams are not touched.
        count: images to draw.

    Returns:
        ``coverage`` (:func:`class_coverage`), and ``nearest_neighbour_ratio`` if it is not ``None``.
    """
    random = torch.Generator().manual_seed(seed)
    class_counts = class_counts.cpu()
    images = _draw(send(copy.deepcopy(generator), device).eval(), class_counts, device, random, count)
    classifier = send(copy.deepcopy(guide), device).eval()
    predicted = torch.cat([classifier(batch).argmax(-1) for batch in images.split(_CHUNK)]).cpu()
    training, held_out = (
        to_pixels(send(pixels[torch.randperm(len(pixels), generator=random)[:most]], device))
        for pixels, most in ((train_pixels, MOST_TRAINING_IMAGES), (validation_pixels, MOST_HELD_OUT_IMAGES))
    )
    quality = {"coverage": class_coverage(predicted, class_counts)}
    ratio = nearest_neighbour_ratio(images, training, held_out)
    return quality if ratio is None else {**quality, "nearest_neighbour_ratio": ratio}


@torch.no_grad()
def require_images(
    generator: ImageGenerator, image_shape: tuple[int, ...], class_counts: Tensor, device: torch.device
) -> None:
    """Draw a few images, and refuse a generator that makes none; NaN is in no range.

    Raises:
        MosaicError: their shape is another, or their pixels are not in ``[0, 1]``.
    """
    random = torch.Generator().manual_seed(0)
    images = _draw(send(copy.deepcopy(generator), device).eval(), class_counts.cpu(), device, random, _LOOKED_AT)
    low, high = (float(value) for value in images.aminmax())
    if images.shape[1:] != image_shape or not (-_ROUNDING <= low <= high <= 1 + _ROUNDING):
        raise MosaicError(
            f"algorithm.generation: expected images of shape {tuple(image_shape)} with pixels in [0, 1], got shape "
            f"{tuple(images.shape[1:])} with pixels from {low:g} to {high:g}"
        )


def nearest_distances(images: Tensor, training: Tensor, chunk: int = 512) -> Tensor:
    """Return the distance of each image to the nearest training image, shape ``(M,)``."""
    blocks = training.flatten(1).split(chunk)
    return torch.cat([_nearest(batch, blocks) for batch in images.flatten(1).split(chunk)])


def _nearest(points: Tensor, blocks: tuple[Tensor, ...]) -> Tensor:
    """Return the distance of each point ``(B, D)`` to the nearest point of all blocks, shape ``(B,)``."""
    nearest = torch.full_like(points[:, 0], math.inf)
    for block in blocks:
        # cdist multiplies matrices: fast, but not exactly 0 for a copy. It finds the neighbour; the norm is exact.
        neighbours = block[torch.cdist(points, block).argmin(1)]
        nearest = torch.minimum(nearest, (points - neighbours).norm(dim=1))
    return nearest


def _draw(
    generator: ImageGenerator, class_counts: Tensor, device: torch.device, random: torch.Generator, count: int
) -> Tensor:
    """Return generated pixels; labels and noise are drawn on the CPU, so that every device uses the same."""
    labels = torch.multinomial(class_counts.double(), count, replacement=True, generator=random)
    noise = torch.randn(count, generator.latent_dim, generator=random)
    batches = zip(send(noise, device).split(_CHUNK), send(labels, device).split(_CHUNK), strict=True)
    return torch.cat([generator(*batch) for batch in batches])
