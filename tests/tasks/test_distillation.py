from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import Blueprint, Classifier
from mosaic.nets.batchnorm import batch_norms
from mosaic.phases import PhaseRunner
from mosaic.tasks.distillation import DistillationTask, TaughtImages


class Lesson:
    """The same batch again and again."""

    def __init__(self, batch: TaughtImages, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __iter__(self) -> Iterator[TaughtImages]:
        return iter([self.batch] * self.steps)


def distillation(student: Classifier, **changes: object) -> DistillationTask:
    settings = {"temperature": 1.0, "alpha": 0.8, "beta": 1.0, "learning_rate": 1e-2, "freeze_statistics": False}
    return DistillationTask(student, **{**settings, **changes})


@pytest.fixture
def student(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0))


@pytest.fixture
def taught(random: torch.Generator) -> TaughtImages:
    """Forty images of three brightnesses and a teacher that tells them apart."""
    labels = torch.arange(40) % 3
    images = (0.4 * labels)[:, None, None, None] + 0.1 * torch.rand(40, 1, 8, 8, generator=random)
    return TaughtImages(images, 4.0 * nn.functional.one_hot(labels, 3))


def test_a_student_comes_to_agree_with_its_teacher(
    student: Classifier, taught: TaughtImages, phases: PhaseRunner
) -> None:
    curves = phases.run(distillation(student), Lesson(taught, 40), seed=0)
    assert curves["loss"][-1] < 0.3 * curves["loss"][0]
    assert curves["agreement"][0] < 0.7 < 0.95 < curves["agreement"][-1]
    assert curves["loss"].shape == curves["agreement"].shape == (40,)


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_exactly_where_asked_to(
    student: Classifier, taught: TaughtImages, phases: PhaseRunner, frozen: bool
) -> None:
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in batch_norms(student)]
    phases.run(distillation(student, freeze_statistics=frozen), Lesson(taught, 3), seed=0)
    kept = [
        torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, var)
        for layer, (mean, var) in zip(batch_norms(student), before, strict=True)
    ]
    assert kept == [frozen] * 3


def test_frozen_statistics_do_not_freeze_the_weights(
    student: Classifier, taught: TaughtImages, phases: PhaseRunner
) -> None:
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    phases.run(distillation(student, freeze_statistics=True), Lesson(taught, 3), seed=0)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_the_view_is_for_the_student(student: Classifier, taught: TaughtImages, phases: PhaseRunner) -> None:
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    phases.run(distillation(student, view=lambda images: images.flip(0)), Lesson(taught, 1), seed=0)
    assert torch.equal(seen[0], taught.images.flip(0))


def test_pseudo_labels_alone_ignore_how_sure_the_teacher_is(
    blueprint: Blueprint, taught: TaughtImages, phases: PhaseRunner
) -> None:
    surer = TaughtImages(taught.images, 7 * taught.teacher_logits)
    losses = [
        phases.run(
            distillation(blueprint.build(blueprint.initial(0)), alpha=alpha, beta=0.0), Lesson(batch, 1), seed=0
        )["loss"]
        for alpha in (0.0, 1.0)
        for batch in (taught, surer)
    ]
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]
