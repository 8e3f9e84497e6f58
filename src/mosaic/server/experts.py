"""Experts, and which classes each of them knows (docs/method.md, section 3)."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mosaic.messages import StateDict
from mosaic.nets.classifier import Classifier

ExpertStatistics = Literal["average", "pooled", "recalibrated"]


@dataclass(frozen=True)
class Experts:
    """Experts, and what each of them knows.

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


def class_shares(class_counts: Tensor) -> Tensor:
    """Return how each class is spread over the clients.

    Args:
        class_counts: images per client and class, shape ``(N, C)``.

    Returns:
        ``W[c, i] = n[i, c] / sum_j n[j, c]``, shape ``(C, N)``; every row sums to one. A class that nobody holds is
        spread like the images as a whole.

    >>> class_shares(torch.tensor([[1, 0], [3, 0]]))
    tensor([[0.2500, 0.7500],
            [0.2500, 0.7500]])
    """
    counts = class_counts.double().T
    held = counts.sum(1, keepdim=True) > 0
    counts = torch.where(held, counts, counts.sum(0, keepdim=True))
    return (counts / counts.sum(1, keepdim=True)).float()


def head_of(model: StateDict) -> nn.Linear:
    """Return the linear last layer of a classifier's weights."""
    classes, features = model["head.weight"].shape
    head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
    head.load_state_dict({name: model[f"head.{name}"] for name in ("weight", "bias")})
    return head


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
