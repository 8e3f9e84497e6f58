from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.losses.distillation import knowledge_distillation
from mosaic.nets import Blueprint
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.batchnorm import recalibrate
from mosaic.nets.gates import WeightedLogits
from mosaic.nets.teacher import ImageExperts, MixtureOfExperts
from mosaic.tasks.alternating import take_turns
from mosaic.tasks.pool_synthesis import CURVES, PoolSynthesisTask
from mosaic.tasks.synthesis_settings import LearningSettings, ReweighingSettings, SynthesisSettings
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each
from tests.networks import copy_of, unchanged

EXPERTS = 3
TINY = SynthesisSettings(batch_size=8, latent_dim=4, width=2)
CO_BOOSTING = replace(TINY, only_disagreeing=False, mean_statistics=True, hard_labels=True)
FEW = LearningSettings(batch_size=8)
STILL = ReweighingSettings(step=0)
HARDENING = {"learning": replace(FEW, pixel_step=8 / 255)}


@pytest.fixture
def ensemble(blueprint: Blueprint) -> MixtureOfExperts:
    """Three experts that remember the statistics of the same flickering images, and are sure of themselves."""
    experts = [blueprint.build(blueprint.initial(seed)) for seed in range(EXPERTS)]
    seen = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for expert in experts:
            recalibrate(expert, seen)
            expert.head.weight.mul_(10)
    return MixtureOfExperts(ImageExperts(experts), WeightedLogits(torch.full((EXPERTS,), 1 / EXPERTS)))


@pytest.fixture
def make(blueprint: Blueprint, ensemble: MixtureOfExperts) -> Callable[..., PoolSynthesisTask]:
    """Make a task of four syntheses of three steps."""

    def made(**changes: Any) -> PoolSynthesisTask:
        student = blueprint.build(blueprint.initial(99))
        settings = {"synthesis": TINY, "learning": FEW, "reweighing": STILL, "syntheses": 4, "seed": 1}
        return PoolSynthesisTask(student, ensemble, **{**settings, **changes})

    return made


Make = Callable[..., PoolSynthesisTask]


def train(
    task: PoolSynthesisTask, phases: PhaseRunner, syntheses: int = 2, updates: int = 4, seed: int = 0, steps: int = 3
) -> dict[str, Tensor]:
    return phases.run(task, take_turns(syntheses * steps, updates, syntheses), seed)


def watch(net: nn.Module, look: Callable[[nn.Module, Tensor], Any]) -> list[Any]:
    """What can be seen of a net and its input whenever it runs from now on."""
    seen: list[Any] = []
    net.register_forward_pre_hook(lambda net, inputs: seen.append(look(net, inputs[0].detach().clone())))
    return seen


def images_of(random: torch.Generator) -> Tensor:
    return torch.rand(8, 1, 8, 8, generator=random)


# the ensemble


def test_equal_weights_give_the_mean_of_the_logits(ensemble: MixtureOfExperts, random: torch.Generator) -> None:
    images = images_of(random)
    expected = np.mean([expert(images).numpy() for expert in ensemble.experts.experts], axis=0)
    np.testing.assert_allclose(ensemble(images).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_each_expert_has_its_own_weight() -> None:
    opinions = torch.tensor([[[1.0, 2.0], [10.0, 20.0]]])
    assert WeightedLogits(torch.tensor([1.0, 0.5]))(opinions).tolist() == [[6.0, 12.0]]


@pytest.mark.parametrize("changes", [{}, HARDENING], ids=["DENSE", "hardened"])
def test_the_ensemble_stays_frozen_in_eval_mode_with_its_statistics(
    make: Make, phases: PhaseRunner, changes: dict[str, Any]
) -> None:
    task = make(**changes)
    before = copy_of(task.ensemble)
    modes = watch(task.ensemble.experts, lambda net, _: any(module.training for module in net.modules()))
    train(task, phases)
    assert len(modes) >= 2 * 3
    assert not any(modes)
    assert unchanged(task.ensemble, before)
    assert all(p.grad is None and not p.requires_grad for p in task.ensemble.parameters())


# synthesis


def test_the_batch_norm_term_is_numpys(make: Make, random: torch.Generator) -> None:
    task, images = make(), images_of(random)
    seen = [
        watch(layer, lambda net, inputs: (inputs.numpy(), net.running_mean.numpy(), net.running_var.numpy()))
        for layer in task.ensemble.modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    labels = torch.zeros(8, dtype=torch.long)
    summed = task._generator_losses(images, labels)[1].item()
    expected = 0.0
    for ((inputs, mean, variance),) in seen:
        channels = inputs.transpose(1, 0, 2, 3).reshape(inputs.shape[1], -1)
        expected += np.linalg.norm(channels.mean(1) - mean) + np.linalg.norm(channels.var(1) - variance)
    assert len(seen) == 3 * EXPERTS
    assert summed == pytest.approx(expected, rel=1e-4)
    task.synthesis = replace(TINY, mean_statistics=True)
    assert task._generator_losses(images, labels)[1].item() == pytest.approx(expected / EXPERTS, rel=1e-4)


def test_the_label_term_is_the_ensembles_cross_entropy(make: Make, random: torch.Generator) -> None:
    task, images, labels = make(), images_of(random), torch.arange(8) % 3
    log_p = scipy.special.log_softmax(task.ensemble(images).numpy(), axis=1)[np.arange(8), labels.numpy()]
    assert task._generator_losses(images, labels)[2].item() == pytest.approx(-log_p.mean(), rel=1e-4)
    task.synthesis = replace(TINY, hard_labels=True)
    assert task._generator_losses(images, labels)[2].item() == pytest.approx(
        (-(1 - np.exp(log_p)) * log_p).mean(), rel=1e-4
    )


def test_two_terms_are_added_and_the_divergence_is_subtracted(make: Make, random: torch.Generator) -> None:
    weights = {"statistics_weight": 2.0, "label_weight": 3.0, "divergence_weight": 5.0}
    task = make(synthesis=replace(CO_BOOSTING, **weights))
    loss, *terms = task._generator_losses(images_of(random), torch.arange(8) % 3).tolist()
    assert min(terms) > 0.01
    assert loss == pytest.approx(2 * terms[0] + 3 * terms[1] - 5 * terms[2], rel=1e-5)


def test_a_term_without_weight_is_not_computed(make: Make, phases: PhaseRunner) -> None:
    task = make(synthesis=replace(TINY, statistics_weight=0.0, divergence_weight=0.0))
    asked = watch(task.student, lambda net, images: None)
    curves = train(task, phases, updates=0)
    assert asked == []
    assert curves["statistics"].tolist() == curves["divergence"].tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("term", ["statistics", "labels"])
def test_a_long_synthesis_lowers_each_term(make: Make, phases: PhaseRunner, term: str) -> None:
    only = {f"{name}_weight": float(term.startswith(name)) for name in ("statistics", "label", "divergence")}
    settings = replace(TINY, width=8, learning_rate=1e-2, **only)
    short, long = (train(make(synthesis=settings), phases, 1, steps=steps)[term] for steps in (1, 60))
    assert long < 0.7 * short


@pytest.mark.slow
def test_a_long_synthesis_divides_student_and_ensemble(make: Make, phases: PhaseRunner) -> None:
    settings = replace(CO_BOOSTING, width=8, learning_rate=1e-2, statistics_weight=0.0, label_weight=0.0)
    short, long = (train(make(synthesis=settings), phases, 1, steps=steps)["divergence"] for steps in (1, 60))
    assert long > 1.5 * short


def test_the_images_of_the_best_step_are_kept(make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen, script = make(), list[Tensor](), iter([3.0, 1.0, 0.5, 2.0, 1.0, 2.0, 3.0, 4.0])
    losses = task._generator_losses

    def scripted(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        fresh = losses(images, labels)
        return torch.cat([fresh[:1] * 0 + next(script), fresh[1:]])

    monkeypatch.setattr(task, "_generator_losses", scripted)
    curves = train(task, phases, steps=4)
    kept = task.pool.samples(16)
    half_a_shade = 0.5 / 255 + 1e-6
    assert (kept[:8] - seen[2]).abs().max() <= half_a_shade
    assert (kept[8:] - seen[4]).abs().max() <= half_a_shade
    assert curves["generator"].tolist() == [0.5, 1.0]


def weights_in_each_step(task: PoolSynthesisTask) -> list[Tensor]:
    return watch(task.generator, lambda net, _: torch.cat([p.detach().flatten() for p in net.parameters()]))


def test_every_synthesis_starts_from_a_generator_of_its_own(make: Make, phases: PhaseRunner) -> None:
    """Adam without a memory moves every weight by its rate, whatever the gradient; with one it would not."""
    task = make(synthesis=replace(TINY, learning_rate=1e-2))
    weights = weights_in_each_step(task)
    train(task, phases)
    starts = weights[0], weights[3]
    assert len(weights) == 2 * 3
    assert (starts[0] - starts[1]).abs().mean() > 0.01
    assert (weights[3] - weights[2]).abs().mean() > 2 * (weights[2] - weights[1]).abs().mean()
    for start, after in (weights[:2], weights[3:5]):
        moved = (after - start).abs()
        assert moved.max() <= 0.0101
        assert moved.median() == pytest.approx(0.01, rel=0.01)


def test_statistics_of_the_last_generator_are_forgotten_too(make: Make, phases: PhaseRunner) -> None:
    task = make()
    seen = watch(task.generator, lambda net, _: int(net.layers[1].num_batches_tracked))
    train(task, phases)
    assert seen == [0, 1, 2, 0, 1, 2]


def test_noise_is_new_in_every_synthesis_and_trained_with_the_generator(make: Make, phases: PhaseRunner) -> None:
    task = make()
    noise = watch(task.generator, lambda _, noise: noise)
    train(task, phases)
    assert (noise[3] - noise[0]).abs().mean() > 0.3
    for before, after in (noise[:2], noise[1:3], noise[3:5]):
        assert 0 < (after - before).abs().max() <= 0.002


def test_labels_are_drawn_uniformly(make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 labels of three classes: 100 of each, give or take five standard deviations."""
    task, drawn = make(syntheses=10, synthesis=replace(TINY, batch_size=30)), list[int]()
    losses = task._generator_losses

    def noting(images: Tensor, labels: Tensor) -> Tensor:
        drawn.extend(labels.tolist())
        return losses(images, labels)

    monkeypatch.setattr(task, "_generator_losses", noting)
    train(task, phases, 10, 0, steps=1)
    assert all(60 <= Counter(drawn)[label] <= 140 for label in range(3))


def test_a_synthesis_leaves_the_student_alone(make: Make, phases: PhaseRunner) -> None:
    task = make()
    before = copy_of(task.student)
    modes = watch(task.student, lambda net, _: any(module.training for module in net.modules()))
    train(task, phases, updates=0)
    assert modes == [False] * 6
    assert unchanged(task.student, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in task.student.parameters())


# the student


def test_the_student_comes_to_agree_with_the_ensemble(make: Make, phases: PhaseRunner) -> None:
    curves = train(make(learning=replace(FEW, temperature=1.0, learning_rate=0.05)), phases, 4, 120)
    assert {name: len(curve) for name, curve in curves.items()} == {
        **dict.fromkeys(CURVES, 4),
        "loss": 120,
        "agreement": 120,
    }
    assert curves["loss"][-10:].mean() < 0.5 * curves["loss"][:10].mean()
    assert curves["agreement"][-20:].mean() > max(0.8, curves["agreement"][:5].mean())


def test_momentum_lasts_from_turn_to_turn(make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    task, momenta = make(), list[int]()
    start = task._start_afresh

    def noting(optimizer: Any, seed: int) -> Tensor:
        momenta.append(len(task.optimizers()[0].state))
        return start(optimizer, seed)

    monkeypatch.setattr(task, "_start_afresh", noting)
    train(task, phases)
    assert momenta == [0, len(list(task.student.parameters()))]


@pytest.mark.parametrize("changes", [{}, HARDENING], ids=["DENSE", "hardened"])
def test_the_answer_is_the_ensembles_to_what_the_student_sees(
    make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Also where it was given when the image came."""
    task, taught = make(**changes), list[tuple[Tensor, Tensor]]()
    seen = watch(task.student, lambda net, images: images if net.training else None)

    def noting(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        assert temperature == 20
        taught.append((seen[-1], teacher_logits))
        return student_logits.sum()

    monkeypatch.setattr("mosaic.tasks.pool_synthesis.knowledge_distillation", noting)
    train(task, phases)
    answered = [(images, logits) for images, logits in taught if not logits.requires_grad]
    assert len(answered) == 4
    for images, logits in answered:
        torch.testing.assert_close(logits, task.ensemble(images), rtol=1e-4, atol=1e-4)


def test_student_and_ensemble_see_the_same_view(make: Make, phases: PhaseRunner) -> None:
    task = make(learning=replace(FEW, view=Augmentation(padding=2, flip=True)))
    by_student = watch(task.student, lambda net, images: images if net.training else None)
    by_ensemble = watch(task.ensemble, lambda _, images: images)
    train(task, phases, 1, 2)
    views = [images for images in by_student if images is not None]
    assert len(views) == 2
    assert all(torch.equal(view, asked) for view, asked in zip(views, by_ensemble[-2:], strict=True))
    assert all((view[:, :, 0] == 0).all((1, 2)).any() for view in views), "some image is moved down over the padding"


def test_a_hardened_image_is_near_and_harder(make: Make, random: torch.Generator) -> None:
    task, images = make(**HARDENING), images_of(random)
    images[0] = 1.0
    before = copy_of(task.student)
    hardened = task._hardened(images)
    assert unchanged(task.student, before)
    assert 0.9 * 8 / 255 < (hardened - images).abs().max() <= 8 / 255 + 1e-6
    assert hardened.min() >= 0
    assert hardened.max() <= 1
    task.student.eval()
    plain, hard = (knowledge_distillation(task.student(x), task.ensemble(x), 20.0) for x in (images, hardened))
    assert hard > plain


def test_a_random_direction_moves_pixels_towards_drawn_classes_of_the_ensemble(
    make: Make, random: torch.Generator
) -> None:
    """The student has no say, and the next image goes another way."""
    task = make(learning=replace(FEW, pixel_step=8 / 255, pixel_direction="random"))
    images = images_of(random).mul(0.8).add(0.1)
    asked = watch(task.student, lambda *_: True)
    state = task._random.get_state()
    hardened, again = task._hardened(images), task._hardened(images)
    assert not asked
    assert not torch.equal(hardened, again)
    task._random.set_state(state)
    wanted = (2 * torch.rand(len(images), task.student.num_classes, generator=task._random) - 1).double()
    plain, moved = (
        (wanted * (task.ensemble(x).double() / task.learning.temperature).softmax(-1)).sum(-1)
        for x in (images, hardened)
    )
    assert ((hardened - images).abs() <= 8 / 255 + 1e-6).all()
    assert (moved > plain).all()


# the ensemble's weights


def test_without_a_step_the_ensemble_stays_a_mean(make: Make, phases: PhaseRunner) -> None:
    task = make()
    train(task, phases)
    assert torch.equal(task.weights, torch.full((EXPERTS,), 1 / EXPERTS))


def test_weights_move_by_exactly_the_decaying_step(make: Make, phases: PhaseRunner) -> None:
    task = make(reweighing=ReweighingSettings(0.01, 0.5))
    seen = watch(task.ensemble, lambda ensemble, _: ensemble.gate.weights.clone())
    train(task, phases, 2, 0)
    start, after_one, after_two = seen[0], seen[3], task.weights
    assert torch.equal(start, torch.full((EXPERTS,), 1 / EXPERTS))
    assert (after_one - start).abs().tolist() == pytest.approx([0.01] * EXPERTS, rel=1e-4)
    assert (after_two - after_one).abs().tolist() == pytest.approx([0.005] * EXPERTS, rel=1e-4)


def test_weights_go_down_the_cross_entropy(make: Make, random: torch.Generator, phases: PhaseRunner) -> None:
    """An expert that is right about every image gains, one that is wrong loses, one without opinion stays."""
    task, labels = make(), torch.arange(8) % 3
    train(task, phases, 1, 0)
    right = 3.0 * nn.functional.one_hot(labels, 3)
    opinions = torch.stack([right, -right, torch.zeros(8, 3)], dim=1)
    task.ensemble.experts.forward = lambda images: opinions
    task.trainer = Alone()
    task._reweigh(images_of(random), labels, 0.25)
    assert task.weights.tolist() == pytest.approx([1 / 3 + 0.25, 1 / 3 - 0.25, 1 / 3])
    task._reweigh(images_of(random), labels, 0.75)
    assert task.weights.tolist() == pytest.approx([1.0, 0.0, 1 / 3])


class Alone:
    """As much of a Trainer as is asked for the mean over one rank."""

    strategy = property(lambda self: self)

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "mean"
        return tensor


# seeds and ranks


@pytest.mark.parametrize(
    "changes",
    [{}, {"learning": replace(FEW, view=Augmentation(1, True), pixel_step=0.03), "reweighing": ReweighingSettings()}],
    ids=["DENSE", "everything"],
)
def test_the_same_seed_gives_the_same_student_bit_for_bit(
    make: Make, phases: PhaseRunner, changes: dict[str, Any]
) -> None:
    """Whatever the seed of the global stream, from which nothing is drawn."""
    tasks = [make(**changes), make(**changes), make(**changes, seed=2)]
    for of_phase, task in enumerate(tasks):
        task.ensemble.gate.weights.fill_(1 / EXPERTS)
        train(task, phases, seed=of_phase)
    assert unchanged(tasks[1].student, copy_of(tasks[0].student))
    assert not unchanged(tasks[2].student, copy_of(tasks[0].student))


def test_ranks_share_generators_but_not_noise(make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    for rank in (0, 1):
        task = make()
        weights, noise = weights_in_each_step(task), watch(task.generator, lambda _, noise: noise)
        monkeypatch.setattr(PoolSynthesisTask, "global_rank", rank)
        train(task, phases, 2, 0)
        starts.append((weights[0], weights[3], noise[0]))
    assert torch.equal(starts[0][0], starts[1][0])
    assert torch.equal(starts[0][1], starts[1][1])
    assert not torch.equal(starts[0][2], starts[1][2])


def test_noise_is_no_parameter_that_ranks_would_be_given_alike(make: Make, phases: PhaseRunner) -> None:
    task = make()
    train(task, phases)
    of_generator, of_student = (len(list(net.parameters())) for net in (task.generator, task.student))
    learning = [name for name, parameter in task.named_parameters() if parameter.requires_grad]
    assert len(learning) == of_generator + of_student
    (noise,) = task._noise
    assert all(noise is not parameter for parameter in task.parameters())


def test_ranks_share_a_batch(make: Make, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaic.tasks.pool_synthesis.world_size", lambda: 3)
    task = make()
    train(task, phases, 4)
    assert len(task.pool) == 4 * 2, "eight images on three ranks are two each"


# refusals


@for_each(
    ("settings", "key", "value", "expected"),
    [
        (SynthesisSettings, "synthesis.batch_size", 1, "at least 2 images, since one has no variance"),
        (SynthesisSettings, "synthesis.latent_dim", 0, "a number above 0"),
        (SynthesisSettings, "synthesis.divergence_temperature", 0.0, "a number above 0"),
        (SynthesisSettings, "synthesis.statistics_weight", -1.0, "0 or more"),
        (LearningSettings, "learning.batch_size", 0, "at least 2 images, since one has no variance"),
        (LearningSettings, "learning.temperature", 0.0, "a number above 0"),
        (LearningSettings, "learning.momentum", 1.0, r"a value in \[0, 1\)"),
        (LearningSettings, "learning.pixel_step", 1.5, r"a share in \[0, 1\]"),
        (ReweighingSettings, "reweighing.step", -0.1, r"a share in \[0, 1\]"),
        (ReweighingSettings, "reweighing.decay", 1.1, r"a share in \[0, 1\]"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: Any, key: str, value: float, expected: str) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.{key}: expected {expected}, got {value}$"):
        settings(**{key.split(".")[1]: value})


def test_the_student_keeps_what_does_not_learn(
    blueprint: Blueprint, ensemble: MixtureOfExperts, phases: PhaseRunner
) -> None:
    """Such as features that somebody else has learnt, which a network has frozen."""
    student = blueprint.build(blueprint.initial(99))
    frozen = [p for name, p in student.named_parameters() if not name.startswith("head")]
    for parameter in frozen:
        parameter.requires_grad = False
    before, head = [p.clone() for p in frozen], student.head.weight.clone()
    train(PoolSynthesisTask(student, ensemble, TINY, FEW, STILL, syntheses=2, seed=1), phases)
    assert all(torch.equal(*pair) for pair in zip(frozen, before, strict=True))
    assert not any(p.requires_grad for p in frozen)
    assert not torch.equal(student.head.weight, head)
