"""Generated images with the teacher's answers, and batches of them (docs/method.md, section 6)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mosaic.ranks import own_share, world_size
from mosaic.server.generators import GeneratedImages
from mosaic.tasks.distillation import LabelledBatch
from mosaic.transfer import send


def origin_log_prior(source: GeneratedImages, class_counts: Tensor, conditional: bool, epsilon: float) -> Tensor:
    """Return the class prior that an image's origin gives (docs/method.md, section 6).

    Args:
        source: generated images with owner and drawn label.
        class_counts: of the generators' owners, shape ``(N, C)``.
        conditional: whether generators use labels; the drawn label then replaces the owner's shares.
        epsilon: added to every share, so that no class is ruled out.

    Returns:
        ``log(share + epsilon)``, shape ``(B, C)``.
    """
    if conditional:
        shares = torch.nn.functional.one_hot(source.labels, class_counts.shape[1]).float()
    else:
        of_owner = class_counts / class_counts.sum(1, keepdim=True)
        shares = of_owner.to(source.images.device)[source.owners]
    return (shares + epsilon).clamp(min=torch.finfo(torch.float32).tiny).log()


class LabelledImages:
    """Generated images with the teacher's logits, computed once and drawn from many times.

    Args:
        source: the images and their owners.
        teacher_logits: shape ``(M, C)``.
        balanced: whether images are drawn so that all pseudo-labels come equally often.
        min_confidence: images whose most likely class has a smaller probability are never drawn, unless that would
            leave none.
    """

    def __init__(
        self, source: GeneratedImages, teacher_logits: Tensor, balanced: bool, min_confidence: float = 0.0
    ) -> None:
        self.images, self.teacher_logits = source.images, teacher_logits
        confidence, pseudo_labels = (part.cpu() for part in teacher_logits.softmax(-1).max(-1))
        sure = confidence >= min_confidence
        self.kept = sure if sure.any() else torch.ones_like(sure)
        counts = torch.bincount(pseudo_labels[self.kept], minlength=teacher_logits.shape[1]).double()
        weights = 1 / counts[pseudo_labels].clamp(min=1) if balanced else torch.ones(len(source.images)).double()
        self.weights = weights * self.kept


class LabelledBatches:
    """Random batches, drawn with replacement; every rank takes its share of each.

    Args:
        images: to draw from.
        batch_size: of the global batch.
        steps: how many batches.
        seed: of the drawing.
    """

    def __init__(self, images: LabelledImages, batch_size: int, steps: int, seed: int) -> None:
        self._images, self._batch_size, self._steps, self._seed = images, batch_size, steps, seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[LabelledBatch]:
        random, source = torch.Generator().manual_seed(self._seed), self._images
        size = max(self._batch_size, 2 * world_size())  # BatchNorm needs two at every rank
        for _ in range(self._steps):
            batch = torch.multinomial(source.weights, size, replacement=True, generator=random)
            mine = send(own_share(batch), source.images.device)
            yield LabelledBatch(source.images[mine], source.teacher_logits[mine])
