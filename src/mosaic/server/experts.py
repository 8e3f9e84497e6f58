"""Form experts from the clients' models, by what each of them knows (METHOD section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mosaic.messages import TrainReply
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.priors import label_prior
from mosaic.server.aggregation import weighted_mean


@dataclass(frozen=True)
class ExpertPool:
    """Experts and what is known of them.

    Attributes:
        models: E classifiers.
        authority: who speaks for which class, shape ``(E, C)``; every column sums to one.
        prior: smoothed label prior of every expert, shape ``(E, C)``; every row sums to one.
        class_counts: images behind every expert and class, shape ``(E, C)``.
        names: what each expert is called.
    """

    models: list[Classifier]
    authority: Tensor
    prior: Tensor
    class_counts: Tensor
    names: list[str]


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


def class_experts(
    uploads: Sequence[TrainReply], blueprint: Blueprint, epsilon: float, most: int | None = None
) -> ExpertPool:
    """Average the clients' models once for each class, weighted by who holds it (the paper's experts).

    Classes that are spread alike share one expert, so that it is evaluated once. The prior of an average is the
    average of the priors.

    Args:
        uploads: the clients' models with their label counts.
        blueprint: builds an expert.
        epsilon: images of every class that a client is credited with.
        most: keep only the first so many experts; the last of them then speaks for all classes that are left.
    """
    class_counts = torch.stack([upload.class_counts for upload in uploads])
    weights = holdings(class_counts)
    firsts, expert_of_class = first_of_equal_rows(weights)
    firsts = firsts[:most]
    expert_of_class = expert_of_class.clamp(max=len(firsts) - 1)
    counts = torch.where(class_counts.sum(0) > 0, class_counts, class_counts.sum(1, keepdim=True))
    models = [upload.model for upload in uploads]
    experts = [blueprint.build(weighted_mean(models, counts[:, label].tolist())) for label in firsts]
    authority = torch.nn.functional.one_hot(expert_of_class, len(firsts)).T.float()
    names = [f"class {label}" for label in firsts]
    rows = weights[firsts]
    return ExpertPool(experts, authority, rows @ label_prior(class_counts, epsilon), rows @ class_counts.float(), names)


def client_experts(
    uploads: Sequence[TrainReply], blueprint: Blueprint, epsilon: float, most: int | None = None
) -> ExpertPool:
    """Take the clients' models themselves as experts; the arguments are those of :func:`class_experts`."""
    uploads = uploads[:most]
    class_counts = torch.stack([upload.class_counts for upload in uploads])
    experts = [blueprint.build(upload.model) for upload in uploads]
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
