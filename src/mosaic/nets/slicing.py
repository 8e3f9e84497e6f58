"""Sub-models: select channels of a wide network for a narrow one (HeteroFL, Federated Dropout, FedRolex).

A narrow network has the layers of the wide one with fewer channels. A rule selects the channels to keep. Layers with
equally many channels keep the same ones, so that shortcuts and the next layer's inputs fit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from mosaic.errors import MosaicError, abridged

Places = dict[str, tuple[Tensor, ...]]
"""By tensor name and dimension: the indices in the wide network that the narrow one keeps, each of shape ``(k,)``."""


class Slicing(ABC):
    """Selects channels."""

    @abstractmethod
    def channels(self, total: int, kept: int, round: int, seed: int) -> Tensor:
        """Return ``kept`` different indices below ``total``; the seed is that of the client in this round, from 1."""


class FirstChannels(Slicing):
    """Keep the first channels: HeteroFL (Diao et al. 2021, arXiv 2010.01264)."""

    def channels(self, total: int, kept: int, round: int, seed: int) -> Tensor:
        """Return ``0 .. kept - 1``."""
        return torch.arange(kept)


class RandomChannels(Slicing):
    """Keep random channels for every client and round: Federated Dropout (Caldas et al. 2018, arXiv 1812.07210).

    **Deviation:** layers with equally many channels drop the same ones, so that shortcuts fit.
    """

    def channels(self, total: int, kept: int, round: int, seed: int) -> Tensor:
        """Return a sorted random choice."""
        return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:kept].sort().values


class RollingWindow(Slicing):
    """Keep a window that moves by one channel per round: FedRolex (Alam et al. 2022, arXiv 2212.01548)."""

    def channels(self, total: int, kept: int, round: int, seed: int) -> Tensor:
        """Return the first ``kept`` channels after a roll by the round; ``total`` rounds keep all equally often."""
        return torch.arange(total).roll(round % total)[:kept]


def require_part(
    wide: Mapping[str, torch.Size],
    narrow: Mapping[str, torch.Size],
    blocks: Mapping[str, int],
    fused: Collection[str],
) -> None:
    """Raise :class:`MosaicError` unless the tensors of a narrow network can be cut out of the wide one's.

    Args:
        wide: shapes of the wide network's tensors by name.
        narrow: shapes of the narrow one's.
        blocks: those of :class:`~mosaic.nets.classifier.Classifier`.
        fused: names of tensors that hold several weights side by side, so that no channels can be cut out of them.
    """
    otherwise = "give every client level 1"
    if unknown := sorted(blocks.keys() - wide.keys()):
        raise MosaicError(
            f"clients.levels: expected names of weights in the network's input_blocks, got {abridged(unknown)}: take "
            f"them from its state_dict(), or {otherwise}"
        )
    if others := sorted(wide.keys() ^ narrow.keys()):
        raise MosaicError(
            "clients.levels: expected the same tensors of the network and of what its scaled() returns, got only one "
            f"with {abridged(others)}: let scaled() keep all layers, or {otherwise}"
        )
    for name, shape in wide.items():
        kept, block = narrow[name], blocks.get(name, 1)
        cut = [axis for axis, (total, left) in enumerate(zip(shape, kept, strict=False)) if total != left]
        got = f"{tuple(shape)} in the network, and {tuple(kept)} in what its scaled() returns"
        if len(shape) != len(kept) or any(not 1 <= kept[axis] < shape[axis] for axis in cut):
            raise MosaicError(
                f"clients.levels: expected fewer channels, but some, got {name} of {got}: fix scaled(), or {otherwise}"
            )
        if 1 in cut and (shape[1] % block or kept[1] % block):
            raise MosaicError(
                f"clients.levels: expected inputs in blocks of {block} (input_blocks), got {name} of {got}: name the "
                f"inputs for each channel of the layer before, or {otherwise}"
            )
        if cut and name in fused:
            raise MosaicError(
                f"clients.levels: expected layers out of which channels can be cut, got {name} of {got}, where several "
                f"weights lie side by side: let scaled() keep attention and recurrent layers, or {otherwise}"
            )


def places(
    wide: Mapping[str, torch.Size],
    narrow: Mapping[str, torch.Size],
    blocks: Mapping[str, int],
    rule: Slicing,
    round: int,
    seed: int,
) -> Places:
    """Return the indices in the wide network of every tensor of the narrow one, given the shapes of both by name.

    ``blocks`` are those of :class:`~mosaic.nets.classifier.Classifier`; the rest is as in :meth:`Slicing.channels`.
    """
    return {
        name: tuple(
            _expand(rule, total, narrow[name][axis], blocks.get(name, 1) if axis == 1 else 1, round, seed)
            for axis, total in enumerate(shape)
        )
        for name, shape in wide.items()
    }


def _expand(rule: Slicing, total: int, kept: int, block: int, round: int, seed: int) -> Tensor:
    """Return the kept indices of one dimension; a dimension of the same size keeps its order."""
    if total == kept:
        return torch.arange(total)
    channels = rule.channels(total // block, kept // block, round, seed)
    return (channels[:, None] * block + torch.arange(block)).flatten()


def take(tensors: Mapping[str, Tensor], where: Places) -> dict[str, Tensor]:
    """Return the narrow network's part of the wide network's tensors."""
    return {name: tensor[grid(where[name])] for name, tensor in tensors.items()}


def grid(indices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Reshape one index per dimension so that together they select a block.

    >>> torch.arange(9).view(3, 3)[grid((torch.tensor([0, 2]), torch.tensor([1, 2])))]
    tensor([[1, 2],
            [7, 8]])
    """
    return tuple(
        index.view([-1 if axis == place else 1 for axis in range(len(indices))]) for place, index in enumerate(indices)
    )


def narrower(channels: int, ratio: float) -> int:
    """Return ``ceil(ratio * channels)``, at least one for a ratio above zero.

    >>> [narrower(16, ratio) for ratio in (1.0, 0.5, 0.25, 0.01)]
    [16, 8, 4, 1]
    """
    return max(1, math.ceil(round(ratio * channels, 9)))  # in floating point 0.1 * 30 exceeds 3
