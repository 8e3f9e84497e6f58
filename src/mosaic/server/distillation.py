"""Let a student learn from any teacher on generated images (docs/method.md, section 6)."""

from collections.abc import Callable

from torch import Tensor

from mosaic.messages import StateDict
from mosaic.nets.classifier import Classifier
from mosaic.server.aggregation import weighted_mean
from mosaic.server.context import RoundContext
from mosaic.server.generators import GeneratedImages, GeneratorMixture
from mosaic.server.labelled_images import LabelledBatches, LabelledImages, origin_log_prior
from mosaic.tasks.distillation import DistillationSettings, DistillationTask

Teacher = Callable[[GeneratedImages], Tensor]
"""Labels generated images, whose origin it knows too: logits of shape ``(M, C)``."""


def distil(
    student: Classifier,
    teacher: Teacher,
    images: GeneratorMixture,
    settings: DistillationSettings,
    context: RoundContext,
    name: str = "distillation",
) -> StateDict:
    """Train a student on images that the teacher has labelled.

    Args:
        student: starts from its present weights; trained in place.
        teacher: answers before the student trains.
        images: where they come from.
        settings: how the student learns.
        context: of the round.
        name: of the phase, which decides its random streams and under which its curves are recorded.

    Returns:
        The student's weights.
    """
    seed = context.seed_for(name)
    with context.timed("synthesis"):
        labelled = label_images(teacher, images, settings, context, name)
    batch_size, steps = context.phases.dry_run.batch(settings.batch_size), context.phases.dry_run.steps(settings.steps)
    task = DistillationTask(student, settings, context.seed_for(f"{name}/view"))
    with context.timed("distillation"):
        curves = context.phases.run(task, LabelledBatches(labelled, batch_size, steps, seed), seed)
    context.count_updates("student", steps)
    context.record_curves(name, curves)
    return task.trained_student().state_dict()


def on_the_way(start: StateDict, student: StateDict, share: float) -> StateDict:
    """Return the model that goes this share of the way from where a student started (WiSE-FT, arXiv 2109.01903)."""
    return student if share == 1 else weighted_mean([start, student], [1 - share, share])


def label_images(
    teacher: Teacher, images: GeneratorMixture, settings: DistillationSettings, context: RoundContext, name: str
) -> LabelledImages:
    """Make images, ask the teacher about each, and add what its origin says about its class."""
    count = context.phases.dry_run.batch(settings.pool_size)
    source = images.draw(count, context.generator_for(f"{name}/images/0"))
    logits = teacher(source)
    if settings.origin_weight > 0:
        origin = origin_log_prior(source, images.class_counts, images.conditional, settings.origin_epsilon)
        logits = logits + settings.origin_weight * origin
    return LabelledImages(source, logits, settings.balanced, settings.min_confidence)
