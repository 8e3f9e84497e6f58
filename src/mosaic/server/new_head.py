"""Give a model a new linear head, made from the clients' prototypes in its own features."""

import logging
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.messages import StateDict
from mosaic.model_pool import ModelPool
from mosaic.nets.classifier import Classifier
from mosaic.nets.discriminant import linear_discriminant
from mosaic.nets.requirements import HEAD, require_features, require_linear_head
from mosaic.server.acceptance import accepts
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState

log = logging.getLogger(__name__)
BEFORE = "before the last round's new head: "
"""How the names of the old head's tensors begin in the server's state."""


def can_have_new_head(net: Classifier, pool: ModelPool) -> bool:
    """Whether all clients can run this network, it gives vectors of features, and its head is linear."""
    if pool.shares_features:
        with suppress(MosaicError):
            check_head(net, "a new head")
            return True
    return False


def check_head(net: Classifier, wanted_by: str) -> None:
    """Refuse networks whose head cannot be replaced.

    Raises:
        MosaicError: features are no vectors, or the head is not one linear layer with a bias.
    """
    require_features(net, wanted_by, "choose another algorithm")
    require_linear_head(net, wanted_by, "give it one, or choose another algorithm")


def with_new_head(model: StateDict, cohort: Cohort, context: RoundContext) -> StateDict | None:
    """Return the model with the linear discriminant of the clients' prototypes as its head.

    Training under skewed labels spoils the last layer most (CCVR, Luo et al., NeurIPS 2021, arXiv 2106.05001). The new
    logits are scaled so that they spread as much as the old ones, since rounds may go on from here. Classes without
    prototypes keep their old logits, beside the mean over the others.

    Returns:
        Its weights, or nothing where the clients have sent prototypes of fewer than two classes.
    """
    replies, classes = cohort.prototypes(model), context.blueprint.num_classes
    sent = [reply.labels for reply in replies]
    if not sent or len(torch.cat(sent).unique()) < 2:
        log.warning("round %d: no prototypes of two classes, so no new head", context.plan.round)
        return None
    prototypes, labels = torch.cat([reply.prototypes for reply in replies]), torch.cat(sent)
    sizes = torch.cat([reply.sizes for reply in replies])
    seen, old = torch.bincount(labels, minlength=classes) > 0, [model[name] for name in HEAD]
    with context.timed("head"):
        new = linear_discriminant(prototypes, labels, sizes, classes)
        before, after = ((prototypes @ weight.T + bias)[:, seen].std(1).mean() for weight, bias in (old, new))
        scale = before / after if before > 0 and after > 0 else torch.ones(())
        joined = (_joined(was, scale * now, seen) for was, now in zip(old, new, strict=True))
    return {**model, **context.blueprint.everywhere(dict(zip(HEAD, joined, strict=True)))}


def _joined(old: Tensor, new: Tensor, seen: Tensor) -> Tensor:
    """Return the new rows of classes that are seen; all others keep theirs, beside the mean over these."""
    kept = old - old[seen].mean(0) + new[seen].mean(0)
    return torch.where(seen.view(-1, *[1] * (new.dim() - 1)), new, kept)


def with_better_head(model: StateDict, stage: str, cohort: Cohort, context: RoundContext) -> StateDict:
    """Return the model with a new head, unless none can be made or the clients' validation images refuse it.

    Without its new head it is measured as ``stage``.
    """
    net = context.blueprint.build(model)
    if not can_have_new_head(net, context.pool):
        return model
    headed = with_new_head(model, cohort, context)
    if headed is None:
        return model
    context.observe(net, stage)
    return headed if accepts(model, headed, "new head", cohort, context) else model


def offer_new_head(state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
    """Give the last round's model a new head, if clients like it; the state keeps the old one for later rounds.

    See :func:`with_better_head` and :func:`without_new_head`.
    """
    model = with_better_head(state.model, "global before its new head", cohort, context)
    if model is state.model:
        return state
    old = {BEFORE + name: state.model[name] for name in model if model[name] is not state.model[name]}
    return replace(state, model=model, tensors={**state.tensors, **old})


def without_new_head(state: ServerState) -> ServerState:
    """Take back the head of a round that is the last no more: rounds that are added go on as if it had not been."""
    old = {name: tensor for name, tensor in state.tensors.items() if name.startswith(BEFORE)}
    tensors = {name: tensor for name, tensor in state.tensors.items() if name not in old}
    model = {**state.model, **{name.removeprefix(BEFORE): tensor for name, tensor in old.items()}}
    return replace(state, model=model, tensors=tensors) if old else state
