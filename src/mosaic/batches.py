"""Batches by indexing whole tensors, without worker processes or collation."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mosaic.ranks import own_share, world_size
from mosaic.transfer import send


class ShuffledBatches:
    """A given number of batches of aligned tensors, reshuffled for each pass.

    Passes follow each other without a gap, so every batch is full and every example is used equally often (to within
    one). A data set smaller than a batch gives batches of its own size; a single example is repeated, since BatchNorm
    needs two. Under DDP every rank draws the same global batch and takes its share.

    Args:
        tensors: aligned along their first dimension.
        batch_size: size of the global batch.
        steps: number of batches.
        seed: seed of the shuffling.
        indices: indices of the examples to use, shape ``(n,)``; ``None`` uses all.
        least: smallest global batch; two for each rank when not given.

    >>> batches = ShuffledBatches(torch.arange(5), batch_size=2, steps=5, seed=0)
    >>> sorted(torch.cat([batch for batch, in batches]).tolist())
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        steps: int,
        seed: int,
        indices: Tensor | None = None,
        least: int | None = None,
    ) -> None:
        self._tensors, self._least = tensors, 2 * world_size() if least is None else least
        self._indices = torch.arange(len(tensors[0])) if indices is None else indices
        if len(self._indices) == 0:
            raise ValueError("ShuffledBatches needs at least one example, got none")
        self._batch_size = batch_size
        self.steps = steps
        self._seed = seed

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.draw():
            mine = send(own_share(batch), self._tensors[0].device)
            yield tuple(tensor[mine] for tensor in self._tensors)

    def draw(self) -> Iterator[Tensor]:
        """Yield the indices of every global batch, shape ``(B,)``."""
        random = torch.Generator().manual_seed(self._seed)
        waiting = torch.empty(0, dtype=torch.long)
        batch_size = max(min(self._batch_size, len(self._indices)), self._least)
        for _ in range(self.steps):
            while len(waiting) < batch_size:
                permutation = torch.randperm(len(self._indices), generator=random)
                waiting = torch.cat([waiting, self._indices[permutation]])
            batch, waiting = waiting[:batch_size], waiting[batch_size:]
            yield batch


class StackedBatches:
    """The batches of several clients beside each other; one that has fewer than the others repeats its last.

    Args:
        pixels: of all images.
        labels: of all images.
        members: the batches of each client, all of one size B.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, members: Sequence[ShuffledBatches]) -> None:
        self._pixels, self._labels, self._members = pixels, labels, members

    def __len__(self) -> int:
        return max(len(member) for member in self._members)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = [list(member.draw()) for member in self._members]
        for step in range(len(self)):
            batch = torch.stack([own[min(step, len(own) - 1)] for own in drawn])
            mine = send(batch, self._pixels.device)
            yield self._pixels[mine], self._labels[mine]


class JoinedBatches:
    """Batches of several sources, each joined into one.

    Args:
        sources: of aligned tensors, of equal length.
        dim: along which they are joined.
    """

    def __init__(self, sources: Sequence[ShuffledBatches] | Sequence[StackedBatches], dim: int = 0) -> None:
        self._sources, self._dim = sources, dim

    def __len__(self) -> int:
        return len(self._sources[0])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for parts in zip(*self._sources, strict=True):
            yield tuple(torch.cat(part, self._dim) for part in zip(*parts, strict=True))


def part_of(total: int, place: int, parts: int) -> int:
    """Return a part of a total that is spread as evenly as whole numbers allow; places count from 1.

    >>> [part_of(10, place, 4) for place in (1, 2, 3, 4)]
    [2, 3, 2, 3]
    """
    return total * place // parts - total * (place - 1) // parts


def steps_for(steps: int, epochs: float, num_examples: int, batch_size: int) -> int:
    """Return the number of batches: ``steps``, or that of ``epochs`` passes if positive.

    >>> steps_for(steps=10, epochs=0, num_examples=100, batch_size=32)
    10
    >>> steps_for(steps=10, epochs=2, num_examples=100, batch_size=32)
    6
    """
    if epochs <= 0:
        return steps
    return max(1, round(epochs * num_examples / min(batch_size, num_examples)))
