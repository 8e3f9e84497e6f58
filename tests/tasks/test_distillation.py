import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.nets import Blueprint, Classifier
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.batchnorm import batch_norms
from mosaic.tasks.distillation import DistillationSettings, DistillationTask, LabelledBatch
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each
from tests.networks import inputs_of


class Lesson:
    """The same batch again and again."""

    def __init__(self, batch: LabelledBatch, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __iter__(self) -> Iterator[LabelledBatch]:
        return iter([self.batch] * self.steps)


PLAIN = DistillationSettings(
    temperature=1.0, alpha=0.8, beta=1.0, learning_rate=1e-2, shift=0, noise=0, average_decay=0
)
"""Images as they are, and the student's last weights."""


def distillation(student: Classifier, seed: int = 0, **changes: Any) -> DistillationTask:
    return DistillationTask(student, replace(PLAIN, **changes), seed)


@pytest.fixture
def student(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0))


@pytest.fixture
def taught(random: torch.Generator) -> LabelledBatch:
    """Forty images of three brightnesses and a teacher that tells them apart."""
    labels = torch.arange(40) % 3
    images = (0.4 * labels)[:, None, None, None] + 0.1 * torch.rand(40, 1, 8, 8, generator=random)
    return LabelledBatch(images, 4.0 * nn.functional.one_hot(labels, 3))


def test_a_student_comes_to_agree_with_its_teacher(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    curves = phases.run(distillation(student), Lesson(taught, 40), seed=0)
    assert curves["loss"][-1] < 0.3 * curves["loss"][0]
    assert curves["agreement"][0] < 0.7 < 0.95 < curves["agreement"][-1]
    assert curves["loss"].shape == curves["agreement"].shape == (40,)


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_stay_exactly_where_asked_to(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner, frozen: bool
) -> None:
    layers = batch_norms(student).values()
    before = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    phases.run(distillation(student, freeze_statistics=frozen), Lesson(taught, 3), seed=0)
    kept = [
        torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, var)
        for layer, (mean, var) in zip(layers, before, strict=True)
    ]
    assert kept == [frozen] * 3


def test_frozen_statistics_do_not_freeze_the_weights(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    phases.run(distillation(student, freeze_statistics=True), Lesson(taught, 3), seed=0)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in student.named_parameters())


def test_the_optimiser_moves_the_student_at_its_rate(student: Classifier) -> None:
    (group,) = distillation(student, learning_rate=0.25).configure_optimizers().param_groups
    assert group["lr"] == 0.25
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in student.parameters()}


def test_pseudo_labels_alone_ignore_how_sure_the_teacher_is(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    surer = LabelledBatch(taught.images, 7 * taught.teacher_logits)
    losses = [
        phases.run(
            distillation(blueprint.build(blueprint.initial(0)), alpha=alpha, beta=0.0), Lesson(batch, 1), seed=0
        )["loss"]
        for alpha in (0.0, 1.0)
        for batch in (taught, surer)
    ]
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


# the view

VIEW = Augmentation(padding=1, flip=True)


def seen_through(
    view: Augmentation | None,
    blueprint: Blueprint,
    taught: LabelledBatch,
    phases: PhaseRunner,
    seed: int = 0,
    shift: float = 0.0,
    noise: float = 0.0,
) -> list[Tensor]:
    """What a fresh student sees in three steps on the same batch."""
    student = blueprint.build(blueprint.initial(0))
    seen = inputs_of(student)
    phases.run(distillation(student, seed, view=view, shift=shift, noise=noise), Lesson(taught, 3), seed=0)
    return [images for (images,) in seen]


def test_without_a_view_the_student_sees_what_the_teacher_saw(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    seen = seen_through(None, blueprint, taught, phases)
    assert len(seen) == 3
    assert all(torch.equal(images, taught.images) for images in seen)


def test_the_view_is_drawn_anew_in_every_step(blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner) -> None:
    seen = seen_through(VIEW, blueprint, taught, phases)
    assert not any(torch.equal(*pair) for pair in [(seen[0], seen[1]), (seen[1], seen[2]), (seen[0], taught.images)])


def test_a_shift_is_a_crop_of_that_share_of_the_image(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    """A quarter of eight pixels is two; a shift says nothing where there is a view."""
    shifted = seen_through(None, blueprint, taught, phases, shift=0.25)
    cropped = seen_through(Augmentation(padding=2), blueprint, taught, phases)
    viewed = seen_through(Augmentation(padding=2), blueprint, taught, phases, shift=1.0)
    for one, two, three in zip(shifted, cropped, viewed, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(two, three)
    assert not torch.equal(shifted[0], taught.images)


@for_each(
    ("height", "width", "pixels"),
    [(3, 3, 1), (8, 8, 1), (12, 12, 2), (28, 28, 4), (224, 224, 28), (64, 32, 4), (64, 8, 1), (1, 64, 0), (64, 1, 0)],
)
def test_a_shift_moves_images_of_any_size_and_none_out_of_sight(height: int, width: int, pixels: int) -> None:
    assert replace(PLAIN, shift=0.125).view_of(height, width).padding == pixels
    assert PLAIN.view_of(height, width).padding == 0


def test_the_view_moves_images_and_does_not_mix_them(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    for images in seen_through(VIEW, blueprint, taught, phases):
        for viewed, plain in zip(images, taught.images, strict=True):
            assert set(viewed.unique().tolist()) <= {0.0, *plain.unique().tolist()}


def test_the_seed_decides_the_view(blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner) -> None:
    first, again, other = (seen_through(VIEW, blueprint, taught, phases, seed) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))


# noise


def test_noise_has_the_spread_that_is_asked_for(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    moves = torch.stack(seen_through(None, blueprint, taught, phases, noise=0.2)) - taught.images
    assert moves.std().item() == pytest.approx(0.2, rel=0.05)
    assert abs(moves.mean().item()) < 0.01
    assert moves.std(1).min() > 0  # every image has its own


def test_noise_is_drawn_anew_in_every_step_and_the_seed_decides_it(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    first, again, other = (seen_through(None, blueprint, taught, phases, seed, noise=0.1) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not any(torch.equal(*pair) for pair in [*zip(first, other, strict=True), first[:2], first[1:]])


def test_images_are_shifted_first_and_made_noisy_then(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    """So the border that a shift brings in is noisy too, and noise does not change the shift of the first step."""
    shifted = seen_through(VIEW, blueprint, taught, phases)[0]
    noisy = seen_through(VIEW, blueprint, taught, phases, noise=1e-3)[0]
    assert 0 < (noisy - shifted).abs().max() < 1e-2
    assert not (noisy == 0).any()


def test_images_that_are_taught_are_left_as_they_are(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    before = [tensor.clone() for tensor in taught]
    phases.run(distillation(student, noise=0.1, view=VIEW), Lesson(taught, 2), seed=0)
    assert all(torch.equal(*pair) for pair in zip(taught, before, strict=True))


# the moving average


def weights_over_time(student: Classifier) -> list[dict[str, np.ndarray]]:
    """The student's parameters at the start of every step from now on."""
    seen: list[dict[str, np.ndarray]] = []

    def keep(net: nn.Module, _: object) -> None:
        seen.append({name: value.detach().double().numpy().copy() for name, value in net.named_parameters()})

    student.register_forward_pre_hook(keep)
    return seen


def test_the_average_of_a_student_is_a_weighted_sum_of_its_past(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    decay, steps = 0.7, 6
    past = weights_over_time(student)
    task = distillation(student, average_decay=decay)
    phases.run(task, Lesson(taught, steps), seed=0)
    after = [*past[1:], {name: value.detach().double().numpy() for name, value in student.named_parameters()}]
    weights = decay ** np.arange(steps)[::-1]
    for name, value in task.trained_student().named_parameters():
        expected = np.average([weight[name] for weight in after], axis=0, weights=weights)
        np.testing.assert_allclose(value.detach(), expected, rtol=1e-4, atol=1e-6)


def test_an_average_has_the_students_own_statistics(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    task = distillation(student, average_decay=0.9)
    phases.run(task, Lesson(taught, 3), seed=0)
    averaged, last = task.trained_student(), task.student
    assert averaged is not last
    assert all(torch.equal(*pair) for pair in zip(averaged.buffers(), last.buffers(), strict=True))
    assert not torch.equal(averaged.head.weight, last.head.weight)
    assert averaged.state_dict().keys() == last.state_dict().keys()
    assert all(parameter.requires_grad for parameter in averaged.parameters())


def test_averaging_does_not_change_how_the_student_learns(
    blueprint: Blueprint, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    losses = []
    for decay in (0.0, 0.9):
        task = distillation(blueprint.build(blueprint.initial(0)), average_decay=decay)
        losses.append(phases.run(task, Lesson(taught, 4), seed=0)["loss"])
    assert torch.equal(*losses)


def test_without_averaging_the_student_is_the_one_that_was_given(
    student: Classifier, taught: LabelledBatch, phases: PhaseRunner
) -> None:
    task = distillation(student)
    phases.run(task, Lesson(taught, 1), seed=0)
    assert task.trained_student() is student


# refusals


@for_each(
    ("setting", "value", "expected"),
    [
        ("steps", 0, "above 0"),
        ("pool_size", 0, "above 0"),
        ("alpha", 1.5, r"\[0, 1\]"),
        ("min_confidence", -0.1, r"\[0, 1\)"),
        ("min_confidence", 1.0, r"\[0, 1\)"),
        ("noise", -0.1, "0 or more"),
        ("shift", -0.1, r"\[0, 1\]"),
        ("shift", 1.1, r"\[0, 1\]"),
        ("generator_balance", float("nan"), "0 or more"),
        ("learning_rate", float("inf"), r"below 1e\+38"),
        ("interpolation", 0.0, r"\(0, 1\]"),
        ("interpolation", 1.5, r"\(0, 1\]"),
        ("interpolation", (), r"\(0, 1\]"),
        ("interpolation", (1.0, float("nan")), r"\(0, 1\]"),
        ("average_decay", 1.0, r"\[0, 1\)"),
        ("average_decay", -0.5, r"\[0, 1\)"),
        ("learning_rate", float("nan"), "above 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(setting: str, value: Any, expected: str) -> None:
    said = rf"^algorithm\.distillation\.{setting}: expected .*{expected}, got {re.escape(str(value))}$"
    with pytest.raises(MosaicError, match=said):
        DistillationSettings(**{setting: value})
