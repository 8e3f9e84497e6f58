"""Form experts from the clients' models, by what each of them knows (METHOD section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mosaic.losses.priors import label_prior
from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import ModelPool
from mosaic.nets.classifier import Classifier
from mosaic.server.aggregation import pooled_variance
from mosaic.server.gathering import ClassMeans

ExpertStatistics = Literal["average", "pooled", "recalibrated"]


@dataclass(frozen=True)
class ExpertBuilder:
    """Makes experts: whole networks, or heads alone where all experts look at the same features.

    Attributes:
        pool: which client runs which model.
        model: the averaged model, for coordinates of an average that nobody holds.
        heads_only: whether bodies are left out, so that they are neither averaged nor held.
        pooled: whether the BatchNorm variances of an average are those of all its clients' images taken together;
            otherwise they are averaged like weights, which drops the spread of the means.
    """

    pool: ModelPool
    model: StateDict
    heads_only: bool
    pooled: bool = False

    def of_client(self, upload: TrainReply) -> nn.Module:
        """Return the expert that is a client's own model, or its head."""
        if not self.heads_only:
            return self.pool.of(upload.client).build(upload.model)
        return self._head(upload.model)

    def of_class(self, means: ClassMeans, label: int, weights: Tensor) -> nn.Module:
        """Return the expert that is the average for one class; ``weights`` are those of the uploads, shape ``(N,)``."""
        mean = means.of_class(label, self.model)
        if self.heads_only:
            return self._head(mean)
        if self.pooled:
            mean |= self._pooled_variances(means.uploads, weights)
        return self.pool.blueprint.build(mean)

    def _pooled_variances(self, uploads: Sequence[TrainReply], weights: Tensor) -> StateDict:
        variances = {}
        for layer in self.pool.blueprint.batch_norms:
            mean, variance = (
                torch.stack([upload.model[f"{layer}.running_{kind}"] for upload in uploads]) for kind in ("mean", "var")
            )
            variances[f"{layer}.running_var"] = pooled_variance(mean, variance, weights)
        return variances

    @staticmethod
    def _head(model: StateDict) -> nn.Module:
        classes, features = model["head.weight"].shape
        head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
        head.load_state_dict({name: model[f"head.{name}"] for name in ("weight", "bias")})
        return head


@dataclass(frozen=True)
class ExpertPool:
    """Experts and what is known of them.

    Attributes:
        models: E classifiers, or their heads.
        authority: who speaks for which class, shape ``(E, C)``; every column sums to one.
        prior: smoothed label prior of every expert, shape ``(E, C)``; every row sums to one.
        class_counts: images behind every expert and class, shape ``(E, C)``.
        names: what each expert is called.
    """

    models: list[nn.Module]
    authority: Tensor
    prior: Tensor
    class_counts: Tensor
    names: list[str]

    @property
    def heads(self) -> list[nn.Linear]:
        """The experts' last layers."""
        return [cast(nn.Linear, model.head if isinstance(model, Classifier) else model) for model in self.models]

    def log_prior(self, adjusted: bool) -> Tensor:
        """Return what is taken out of the experts' opinions, shape ``(E, C)``.

        Nothing, where their training loss has taken it out already (``adjusted``), and nothing for a class that nobody
        holds: the smallest prior would otherwise make it win.
        """
        held = self.class_counts.sum(0) > 0
        return torch.where(held & (not adjusted), self.prior.log(), 0.0)


def holdings(class_counts: Tensor) -> Tensor:
    """Return how each class is spread over the clients.

    Args:
        class_counts: images per client and class, shape ``(N, C)``.

    Returns:
        ``W[c, i] = n[i, c] / sum_j n[j, c]``, shape ``(C, N)``; every row sums to one. A class that nobody holds is
        spread like the images as a whole.

    >>> holdings(torch.tensor([[1, 0], [3, 0]]))
    tensor([[0.2500, 0.7500],
            [0.2500, 0.7500]])
    """
    counts = class_counts.double().T
    held = counts.sum(1, keepdim=True) > 0
    counts = torch.where(held, counts, counts.sum(0, keepdim=True))
    return (counts / counts.sum(1, keepdim=True)).float()


def class_experts(means: ClassMeans, build: ExpertBuilder, epsilon: float) -> ExpertPool:
    """Take the average of the clients' models for each class as experts, weighted by who holds it (the paper's).

    Classes that are spread alike share one expert, so that it is evaluated once. The prior of an average is the
    average of the priors. Where only the first classes have averages, the last of these speaks for all that are left.

    Args:
        means: the averages.
        build: makes the experts.
        epsilon: images of every class that a client is credited with.
    """
    class_counts = means.class_counts
    weights = holdings(class_counts)
    firsts, expert_of_class = first_of_equal_rows(weights)
    firsts = [label for label in firsts if means.most is None or label < means.most]
    expert_of_class = expert_of_class.clamp(max=len(firsts) - 1)
    counts = torch.where(class_counts.sum(0) > 0, class_counts, class_counts.sum(1, keepdim=True))
    experts = [build.of_class(means, label, counts[:, label]) for label in firsts]
    authority = torch.nn.functional.one_hot(expert_of_class, len(firsts)).T.float()
    names = [f"class {label}" for label in firsts]
    rows = weights[firsts]
    return ExpertPool(experts, authority, rows @ label_prior(class_counts, epsilon), rows @ class_counts.float(), names)


def client_experts(
    uploads: Sequence[TrainReply], build: ExpertBuilder, epsilon: float, most: int | None = None
) -> ExpertPool:
    """Take the clients' models themselves as experts.

    Args:
        uploads: the clients' models with their label counts.
        build: makes the experts.
        epsilon: images of every class that a client is credited with.
        most: keep only the first so many experts.
    """
    uploads = uploads[:most]
    class_counts = torch.stack([upload.class_counts for upload in uploads])
    experts = [build.of_client(upload) for upload in uploads]
    names = [f"client {upload.client}" for upload in uploads]
    authority = holdings(class_counts).T.contiguous()
    return ExpertPool(experts, authority, label_prior(class_counts, epsilon), class_counts.float(), names)


def first_of_equal_rows(rows: Tensor) -> tuple[list[int], Tensor]:
    """Group equal rows.

    Args:
        rows: shape ``(R, K)``.

    Returns:
        The first row of each group, in order of appearance, and for each row the number of its group, shape ``(R,)``.

    >>> first_of_equal_rows(torch.tensor([[1, 0], [0, 1], [1, 0]]))
    ([0, 1], tensor([0, 1, 0]))
    """
    group_of: dict[tuple[float, ...], int] = {}
    groups = [group_of.setdefault(tuple(row), len(group_of)) for row in rows.tolist()]
    firsts = [groups.index(group) for group in range(len(group_of))]
    return firsts, torch.tensor(groups)
