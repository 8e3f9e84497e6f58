"""Form the teacher of one round, whatever of its evidence is missing."""

import logging

import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError, kind_of
from mosaic.server.distillation import Teacher
from mosaic.server.experts import Experts
from mosaic.teachers.answers import neutralise_unknown_classes, takes_generated
from mosaic.teachers.base import TeacherFactory
from mosaic.teachers.evidence import Evidence
from mosaic.teachers.fitting import MissingPrototypesError
from mosaic.teachers.prior import Prior

log = logging.getLogger(__name__)


def form_teacher(
    factory: TeacherFactory, experts: Experts, evidence: Evidence, held: Tensor, origin_counts: bool
) -> Teacher:
    """Form a teacher; it says nothing of classes that are drawn, but that nobody present could teach it.

    Such images come from generators of clients that take no part in this round, or whose prototypes are missing. If all
    prototypes are missing that the teacher needs, :class:`~mosaic.teachers.Prior` takes its place.

    Args:
        factory: forms it.
        experts: whom it asks.
        evidence: what else is known in this round.
        held: whether somebody who takes part has enough images of a class, shape ``(C,)``.
        origin_counts: whether images are drawn as a class, which is then counted beside the teacher's answers.

    Raises:
        MosaicError: the factory, which a user may have written, returns no function of generated images.
    """
    try:
        teacher, known = factory.form(experts, evidence), held & _learnt(factory, evidence)
    except MissingPrototypesError:
        log.warning(
            "round %d: no client has sent a prototype for %s, so Prior takes its place: lower "
            "algorithm.prototypes.min_count if clients hold fewer images of a class",
            evidence.context.plan.round,
            type(factory).__name__,
        )
        teacher, known = Prior(factory.heads_only).form(experts, evidence), held
    image_shape = evidence.context.blueprint.image_shape
    if not callable(teacher) or (isinstance(teacher, nn.Module) and not takes_generated(teacher, image_shape)):
        raise MosaicError(
            f"algorithm.teacher: expected {type(factory).__name__}.form to return a function of generated images, got "
            f"{kind_of(teacher)}: of a network return lambda source: ask_teacher(network, source.images), from "
            "mosaic.teachers.answers"
        )
    unknown = (evidence.images.class_counts.sum(0) > 0) & ~known
    if not unknown.any():
        return teacher
    return lambda source: neutralise_unknown_classes(unknown, teacher(source), source, origin_counts)


def _learnt(factory: TeacherFactory, evidence: Evidence) -> Tensor:
    """Return which classes it could learn, shape ``(C,)``: one without a prototype counts as one that never occurs."""
    classes = evidence.context.blueprint.num_classes
    if not factory.needs_prototypes(evidence.context.pool):
        return torch.ones(classes, dtype=torch.bool)
    return torch.bincount(evidence.prototypes[1], minlength=classes) > 0
