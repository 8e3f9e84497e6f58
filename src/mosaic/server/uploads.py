"""Collect what clients upload: average it as it arrives, and keep what experts need."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from mosaic.losses.priors import label_prior
from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import ModelPool
from mosaic.server.aggregation import ModelMean, pooled_variance
from mosaic.server.experts import Experts, class_shares, first_of_equal_rows, head_of


@dataclass
class Uploads:
    """Collects the average of the clients' models, and nothing else of them.

    Attributes:
        pool: which client runs which model.
        round: communication round of the uploads.
        sent: the model that the clients started from.
        clients: who has uploaded, in order of arrival.
        takes_own_models: whether models of other architectures, which have no average, are of use too.
    """

    takes_own_models: ClassVar[bool] = False
    pool: ModelPool
    round: int
    sent: StateDict
    clients: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Start with an empty average."""
        self._mean = ModelMean(self.pool, self.round, self.sent)

    def add(self, reply: TrainReply) -> None:
        """Add one upload."""
        self.clients.append(reply.client)
        if self.pool.keeps_own(reply.client):
            return
        rows = None
        if self.pool.classifier_rows == "holders":
            rows = torch.where(reply.class_counts > 0, reply.num_examples, 0)
        self._mean.add(reply.client, reply.model, reply.num_examples, rows)

    def average(self) -> StateDict:
        """Return FedAvg's average: clients weigh by their number of images (McMahan et al. 2017, arXiv 1602.05629).

        Sub-models are averaged coordinate by coordinate over the clients that hold each (HeteroFL, FedRolex;
        **Deviation** from HeteroFL, which does not weigh by images). Models of other architectures are left out; where
        nothing is left, the average is the model that was sent.
        """
        return self.sent if self._mean.empty else self._mean.result(self.sent)


@dataclass
class KeptUploads(Uploads):
    """Collects the average and every upload; the clients' own models are the experts.

    Attributes:
        heads_only: whether experts are the models' last layers alone.
        keep_models: whether the whole models are kept beside these layers.
        most: form only the first so many experts.
        replies: the uploads, in order of arrival, with the tensors that are kept.
    """

    heads_only: bool = False
    keep_models: bool = False
    most: int | None = None
    takes_own_models: ClassVar[bool] = True
    replies: list[TrainReply] = field(default_factory=list, init=False)

    def add(self, reply: TrainReply) -> None:
        """Add one upload, and keep what is needed of it."""
        super().add(reply)
        whole = self.keep_models or not self.heads_only
        self.replies.append(reply if whole else replace(reply, model=_head_tensors(reply.model)))

    def experts(self, epsilon: float) -> Experts:
        """Return the clients' models as experts.

        Args:
            epsilon: images of every class that a client is credited with in its label prior.
        """
        used = self.replies[: self.most]
        class_counts = torch.stack([reply.class_counts for reply in used])
        models = [self._expert(reply) for reply in used]
        authority = class_shares(class_counts).T.contiguous()
        names = [f"client {reply.client}" for reply in used]
        return Experts(models, authority, label_prior(class_counts, epsilon), class_counts.float(), names)

    def _expert(self, reply: TrainReply) -> nn.Module:
        return head_of(reply.model) if self.heads_only else self.pool.of(reply.client).build(reply.model)


@dataclass
class ClassMeans(KeptUploads):
    """Collects the average and every upload; experts are averages for each class, weighted by its images: the paper's.

    Attributes:
        pooled: whether the BatchNorm variances of an average are those of all its clients' images taken together;
            otherwise they are averaged like weights, which drops the spread of the means.
        most: form only the first so many experts; the last of them speaks for the classes that are left.
    """

    pooled: bool = False
    takes_own_models: ClassVar[bool] = False

    @property
    def class_counts(self) -> Tensor:
        """Images of every upload and class, shape ``(N, C)``."""
        return torch.stack([reply.class_counts for reply in self.replies])

    def of_class(self, label: int, otherwise: StateDict) -> StateDict:
        """Return the average for one class.

        Args:
            label: the class.
            otherwise: the model where nobody holds the class, and values of coordinates that no sub-model holds.
        """
        if not any(reply.class_counts[label] > 0 for reply in self.replies):
            return otherwise
        mean = ModelMean(self.pool, self.round, self.sent)
        for reply in self.replies:
            part = _head_tensors(reply.model) if self.heads_only else reply.model
            mean.add(reply.client, part, float(reply.class_counts[label]))
        return mean.result(otherwise)

    def experts(self, epsilon: float) -> Experts:
        """Return the averages as experts; classes that are spread alike share one, so that it is evaluated once.

        The prior of an average is the average of the priors.

        Args:
            epsilon: images of every class that a client is credited with in its label prior.
        """
        class_counts, otherwise = self.class_counts, self.average()
        shares = class_shares(class_counts)
        firsts, expert_of_class = first_of_equal_rows(shares)
        firsts = [label for label in firsts if self.most is None or label < self.most]
        expert_of_class = expert_of_class.clamp(max=len(firsts) - 1)
        weights = torch.where(class_counts.sum(0) > 0, class_counts, class_counts.sum(1, keepdim=True))
        models = [self._averaged(label, otherwise, weights[:, label]) for label in firsts]
        authority = nn.functional.one_hot(expert_of_class, len(firsts)).T.float()
        rows, names = shares[firsts], [f"class {label}" for label in firsts]
        return Experts(models, authority, rows @ label_prior(class_counts, epsilon), rows @ class_counts.float(), names)

    def _averaged(self, label: int, otherwise: StateDict, weights: Tensor) -> nn.Module:
        mean = self.of_class(label, otherwise)
        if self.heads_only:
            return head_of(mean)
        if self.pooled:
            mean = mean | pooled_variances(self.replies, self.pool.blueprint.batch_norms, weights)
        return self.pool.blueprint.build(mean)


def _head_tensors(model: StateDict) -> StateDict:
    return {name: tensor for name, tensor in model.items() if name.startswith("head.")}


def pooled_variances(replies: Sequence[TrainReply], layers: Sequence[str], weights: Tensor) -> StateDict:
    """Return the variances of these BatchNorm layers over all clients' images, with these weights of shape ``(N,)``."""
    variances = {}
    for layer in layers:
        mean, variance = (
            torch.stack([reply.model[f"{layer}.running_{kind}"] for reply in replies]) for kind in ("mean", "var")
        )
        variances[f"{layer}.running_var"] = pooled_variance(mean, variance, weights)
    return variances
