"""Average models (docs/method.md, section 1)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from mosaic.messages import StateDict
from mosaic.model_pool import ModelPool
from mosaic.nets.requirements import HEAD
from mosaic.nets.slicing import Places, grid


class WeightedMean:
    """Weighted mean of models that arrive one by one; only the running sum is held.

    Weights are image counts. Summing ``n_i theta_i`` in float64 and dividing once at the end is exact wherever it
    should be: one client, or clients that agree, give back their own float32 weights bit for bit. Floating-point
    buffers (BatchNorm mean and variance) are averaged with the same weights; integer buffers take the maximum.
    """

    def __init__(self) -> None:
        self._sums: StateDict = {}
        self._types: dict[str, torch.dtype] = {}
        self._total = 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing with a positive weight has been added."""
        return self._total == 0

    def add(self, model: StateDict, weight: float) -> None:
        """Add one model.

        Args:
            model: all models must have the same names and shapes.
            weight: at least 0; a model of weight 0 leaves no trace.
        """
        if weight == 0:
            return
        self._total += weight
        for name, tensor in model.items():
            if not tensor.is_floating_point():
                known = self._sums.get(name)
                self._sums[name] = tensor.clone() if known is None else torch.maximum(known, tensor)
            elif name in self._sums:
                _add(self._sums[name], tensor, weight)
            else:
                self._sums[name] = (tensor.double() * weight).contiguous()
            self._types[name] = tensor.dtype

    def result(self) -> StateDict:
        """Return the mean in the models' own types.

        Raises:
            ValueError: nothing was added.
        """
        if self.empty:
            raise ValueError("WeightedMean.result() needs at least one model of positive weight, got none")
        return {
            name: (total / self._total).to(self._types[name]) if total.is_floating_point() else total
            for name, total in self._sums.items()
        }


def _add(sums: Tensor, tensor: Tensor, weight: float) -> None:
    """Add a multiple of a tensor to float64 sums, block by block."""
    for total, part in zip(_blocks(sums), _blocks(tensor), strict=True):
        total.add_(part.double(), alpha=weight)


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return views of at most two MiB of float64, so that a large sum needs no second tensor of its size."""
    size = 2**18
    return (tensor,) if tensor.numel() <= size else tensor.reshape(-1).split(size)


class CoordinateMean:
    """Weighted mean of models of different widths: every coordinate is averaged over those that hold it.

    A coordinate that nobody holds keeps its value. With all models whole this is :class:`WeightedMean` bit for bit.

    Args:
        otherwise: values of coordinates that nobody holds; also gives names, shapes and types.
    """

    def __init__(self, otherwise: StateDict) -> None:
        self._otherwise = otherwise
        self._sums = {
            name: torch.zeros(tensor.shape, dtype=torch.float64) if tensor.is_floating_point() else tensor.clone()
            for name, tensor in otherwise.items()
        }
        self._weights = {
            name: torch.zeros(tensor.shape, dtype=torch.float64)
            for name, tensor in otherwise.items()
            if tensor.is_floating_point()
        }

    def add(self, model: StateDict, where: Places, weight: float, rows: Tensor | None = None) -> None:
        """Add one model.

        Args:
            model: of any width.
            where: places of its tensors in the wide one.
            weight: at least 0; a model of weight 0 leaves no trace.
            rows: weight of every row of a head that is one linear layer, shape ``(C,)``; as ``weight`` when not given.
        """
        if weight == 0:
            return
        for name, tensor in model.items():
            by_row = rows if name in HEAD else None
            if tensor.is_floating_point() and by_row is None and tensor.shape == self._sums[name].shape:
                _add(self._sums[name], tensor, weight)  # in the same order: much faster than by indices
                self._weights[name] += weight
                continue
            block = grid(where[name])
            if not tensor.is_floating_point():
                self._sums[name][block] = torch.maximum(self._sums[name][block], tensor)
            elif by_row is None:
                self._sums[name][block] = self._sums[name][block].add(tensor.double(), alpha=weight)
                self._weights[name][block] += weight
            else:
                own = by_row.double().view([-1] + [1] * (tensor.dim() - 1))
                self._sums[name][block] += tensor.double() * own
                self._weights[name][block] += own

    def result(self, otherwise: StateDict | None = None) -> StateDict:
        """Return the mean in the models' own types.

        Args:
            otherwise: values of coordinates that nobody holds, where they were not known from the start.
        """
        return {
            name: torch.where(self._weights[name] > 0, self._sums[name] / self._weights[name], tensor).to(tensor.dtype)
            if tensor.is_floating_point()
            else torch.maximum(self._sums[name], tensor)
            for name, tensor in (otherwise or self._otherwise).items()
        }


def weighted_mean(models: Iterable[StateDict], weights: Iterable[float]) -> StateDict:
    """Average models with these weights; see :class:`WeightedMean`.

    >>> weighted_mean([{"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}], [1, 3])
    {'w': tensor([3.])}
    """
    mean = WeightedMean()
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    return mean.result()


def pooled_variance(means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """Return the variance of several groups taken together, not the mean of their variances.

    ``sum_i w_i (var_i + mean_i^2) - mean^2``: averaging the running variances of BatchNorm layers drops the spread of
    their means.

    Args:
        means: of every group, shape ``(N, channels)``.
        variances: of every group, shape ``(N, channels)``.
        weights: size of every group, shape ``(N,)``; at least one is positive.

    Returns:
        Shape ``(channels,)``, in the type of ``variances``; at least the mean of the variances.

    >>> pooled_variance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([1, 1]))
    tensor([2.])
    """
    shares = (weights.double() / weights.sum())[:, None]
    mean = (shares * means).sum(0)
    return (shares * (variances + (means - mean) ** 2)).sum(0).to(variances.dtype)


class ModelMean:
    """Weighted mean of whole models, or of sub-models coordinate by coordinate.

    Args:
        pool: which client runs which model.
        round: communication round, which says which channels a sub-model has.
        sent: the model that the clients started from; gives names, shapes and types.
    """

    def __init__(self, pool: ModelPool, round: int, sent: StateDict) -> None:
        self._pool, self._round = pool, round
        self._parts = CoordinateMean(sent) if pool.kind == "widths" else None
        self._whole = WeightedMean()

    @property
    def empty(self) -> bool:
        """Whether the mean is one of whole models, and none of a positive weight has been added."""
        return self._parts is None and self._whole.empty

    def add(self, client: int, model: StateDict, weight: float, rows: Tensor | None = None) -> None:
        """Add one client's model.

        Args:
            client: whose it is.
            model: of the width that the client runs.
            weight: at least 0.
            rows: of sub-models, weight of every row of the classifier, shape ``(C,)``; all as ``weight`` if not given.
        """
        if self._parts is None:
            self._whole.add(model, weight)
        else:
            self._parts.add(model, self._pool.places(client, self._round), weight, rows)

    def result(self, otherwise: StateDict) -> StateDict:
        """Return the mean; coordinates that no sub-model holds have these values."""
        return self._whole.result() if self._parts is None else self._parts.result(otherwise)
