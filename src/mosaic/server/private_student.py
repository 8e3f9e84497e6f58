"""Train a student on images of a generator that is made of what clients have released under differential privacy."""

import logging
from dataclasses import replace

import torch

from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.messages import GeneratorReply
from mosaic.nets.teacher import NoOpinion
from mosaic.privacy.accounting import PrivacyBudget
from mosaic.privacy.release import PublicFeatures, Release
from mosaic.seeding import SERVER
from mosaic.server.acceptance import is_taken_unseen
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.distillation import distil
from mosaic.server.generators import GeneratorMixture
from mosaic.server.released import deviations_of, fit_released, pooled
from mosaic.server.shown import SHOWN_IMAGES, shown_labels
from mosaic.server.state import ServerState
from mosaic.tasks.distillation import DistillationSettings

log = logging.getLogger(__name__)
_PREFIX, _CLIENTS = "release.", "release.clients"
"""Names in the server's state: of the sums over clients, and of the clients that they are over."""


def collect_releases(
    state: ServerState, budget: PrivacyBudget, generation: ClassGaussians, cohort: Cohort, context: RoundContext
) -> tuple[ServerState, bool]:
    """Ask clients of the round that have released nothing yet, and add what comes to the sums.

    Returns:
        The state with the new sums, and whether anything has come.
    """
    known = state.tensors.get(_CLIENTS, torch.zeros(0, dtype=torch.long)).tolist()
    missing = [client for client in context.plan.clients if client not in known]
    dim, noise = _features(generation, context).dim, deviations_of(budget.mechanisms, 1)
    replies = cohort.releases(missing, dim, noise, known) if missing else []
    if not replies:
        return state, False
    fresh, before = pooled(replies), _sums(state)
    total = fresh if before is None else Release(*(old + new for old, new in zip(before, fresh, strict=True)))
    clients = torch.tensor(sorted([*known, *(reply.client for reply in replies)]))
    sums = {f"{_PREFIX}{name}": part for name, part in total._asdict().items()}
    return replace(state, tensors={**state.tensors, **sums, _CLIENTS: clients}), True


def train_student(
    state: ServerState,
    budget: PrivacyBudget,
    generation: ClassGaussians,
    settings: DistillationSettings,
    context: RoundContext,
) -> ServerState:
    """Train a student from scratch on generated images; the classes that they were drawn for take a teacher's place."""
    total, clients = _sums(state), len(state.tensors[_CLIENTS])
    assert total is not None, "collect_releases has added something"
    features, shape = _features(generation, context), context.blueprint.image_shape
    with context.timed("generators"):
        fitted = fit_released(total, deviations_of(budget.mechanisms, clients), features, generation, shape)
    if fitted is None:
        log.warning("round %d: no class stands out of the noise, so no student is trained", context.plan.round)
        return state
    generator, counts = fitted
    upload = GeneratorReply(SERVER, generator.state_dict(), counts, {}, {})
    images = GeneratorMixture([upload], lambda _: generator, context.phases.device)
    wanted = shown_labels(counts, context.phases.dry_run.batch(SHOWN_IMAGES))
    shown = images.draw_from(0, wanted, context.generator_for("samples"))
    context.recorder.images("synthesis/samples", shown.images, shown.labels)
    labels_only = replace(settings, origin_weight=1.0, min_confidence=0.0)
    start = context.blueprint.build(context.blueprint.initial(context.seed_for("student")))
    opinion = NoOpinion(context.blueprint.num_classes)  # an image's class comes from the label that it was drawn for
    student = distil(start, lambda source: opinion(source.images), images, labels_only, context)
    if not is_taken_unseen(student, context):  # a budget pays for no judgement
        return state
    context.observe(context.blueprint.build(student), "student")
    return replace(state, model=student, distilled=True)


def _features(generation: ClassGaussians, context: RoundContext) -> PublicFeatures:
    return PublicFeatures.of(context.blueprint, generation.coefficients)


def _sums(state: ServerState) -> Release | None:
    if _CLIENTS not in state.tensors:
        return None
    return Release(*(state.tensors[f"{_PREFIX}{name}"] for name in Release._fields))
