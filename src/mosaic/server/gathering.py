"""Keep what clients upload, or fold it away as it arrives, so that experts can be formed of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import ModelPool
from mosaic.server.aggregation import CoordinateMean, WeightedMean

FOLDED_BYTES = 2 * 2**30
"""What sums may take without a second thought."""
_ALL = -1
"""In place of a class: all of them together."""


class KeptUploads:
    """Every upload as it is: what experts that are the clients' own models are made of.

    Attributes:
        uploads: in the order in which they have come.
    """

    def __init__(self) -> None:
        self.uploads: list[TrainReply] = []

    def watch(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        """Pass replies on and keep them."""
        for reply in replies:
            self.uploads.append(reply)
            yield reply


@dataclass
class ClassMeans:
    """One average of the clients' models for each class, by images of that class.

    Where models are folded as the replies arrive, no more is held than one float64 sum for each class that somebody
    holds, and one for all classes together, however many clients there are. A hundred sums of a large network take more
    than the models of few clients: then the models are kept, and an average is formed when it is asked for. The
    averages are the same, bit for bit.

    Attributes:
        pool: which client runs which model.
        round: communication round of the uploads.
        sent: the model that the clients have started from.
        heads_only: whether only the last layers are averaged.
        keep: beginnings of the names of tensors that stay with the uploads, the rest being let go.
        most: only the first so many classes get an average of their own.
        fold: whether models are folded as they arrive; :func:`should_fold` says when.
        uploads: in the order in which they have come, with the tensors that are kept.
    """

    pool: ModelPool
    round: int
    sent: StateDict
    heads_only: bool
    keep: tuple[str, ...] = ()
    most: int | None = None
    fold: bool = True
    uploads: list[TrainReply] = field(default_factory=list)
    _means: dict[int, "_Mean"] = field(default_factory=dict)

    def watch(self, replies: Iterable[TrainReply]) -> Iterator[TrainReply]:
        """Pass replies on, fold their models away, and keep the rest of them."""
        for reply in replies:
            self._add(reply)
            yield reply

    @property
    def class_counts(self) -> Tensor:
        """Images of every upload and class, shape ``(N, C)``."""
        return torch.stack([upload.class_counts for upload in self.uploads])

    def of_class(self, label: int, otherwise: StateDict) -> StateDict:
        """Return the average for one class; that over all images where nobody holds the class.

        Args:
            label: the class.
            otherwise: values of coordinates that no sub-model holds.
        """
        if self.fold:
            return (self._means.get(label) or self._means[_ALL]).result(otherwise)
        held = any(upload.class_counts[label] > 0 for upload in self.uploads)
        mean = _Mean(self.pool, self.round, self.sent)
        for upload in self.uploads:
            weight = float(upload.class_counts[label]) if held else upload.num_examples
            if weight > 0:
                mean.add(upload.client, self._counted(upload), weight)
        return mean.result(otherwise)

    def _counted(self, reply: TrainReply) -> StateDict:
        """Return what of a model is averaged."""
        return {name: t for name, t in reply.model.items() if not self.heads_only or name.startswith("head.")}

    def _add(self, reply: TrainReply) -> None:
        if not self.fold:
            self.uploads.append(reply)
            return
        model, counts = self._counted(reply), reply.class_counts[: self.most]
        weights = {int(label): float(counts[label]) for label in counts.nonzero().flatten()}
        for label, weight in {**weights, _ALL: reply.num_examples}.items():
            if label not in self._means:
                self._means[label] = _Mean(self.pool, self.round, self.sent)
            self._means[label].add(reply.client, model, weight)
        kept = {name: tensor for name, tensor in reply.model.items() if name.startswith(self.keep)}
        self.uploads.append(replace(reply, model=kept))


def should_fold(parameters: int, classes: int, clients: int) -> bool:
    """Whether folding class averages takes less memory than keeping the clients' models, or little anyway.

    Args:
        parameters: of a model that are averaged.
        classes: that may get an average of their own.
        clients: that train in this round.

    >>> should_fold(parameters=11_000_000, classes=100, clients=10)
    False
    >>> should_fold(parameters=11_000_000, classes=100, clients=1000)
    True
    """
    sums, models = 8 * parameters * (classes + 1), 4 * parameters * clients
    return sums <= max(models, FOLDED_BYTES)


class _Mean:
    """A mean of whole models, or of sub-models coordinate by coordinate."""

    def __init__(self, pool: ModelPool, round: int, sent: StateDict) -> None:
        self._pool, self._round = pool, round
        self._parts = CoordinateMean(sent) if pool.kind == "widths" else None
        self._whole = WeightedMean()

    def add(self, client: int, model: StateDict, weight: float) -> None:
        if self._parts is None:
            self._whole.add(model, weight)
        else:
            self._parts.add(model, self._pool.places(client, self._round), weight)

    def result(self, otherwise: StateDict) -> StateDict:
        return self._whole.result() if self._parts is None else self._parts.result(otherwise)
