from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mosaic.algorithms.dfrd import DFRDObjective
from mosaic.algorithms.fedftg import FedFTGObjective
from mosaic.errors import MosaicError
from mosaic.nets import Blueprint
from mosaic.nets.batchnorm import batch_norms
from mosaic.nets.class_weighted import ClassWeightedEnsemble
from mosaic.server.experts import class_shares
from mosaic.tasks.alternating import take_turns
from mosaic.tasks.generator_distillation import (
    EarlierGenerator,
    GeneratorDistillationSettings,
    GeneratorDistillationTask,
    draw_conditions,
)
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each
from tests.networks import copy_of, inputs_of, unchanged

TINY = GeneratorDistillationSettings(iterations=2, batch_size=8, latent_dim=4, width=2)
COUNTS = torch.tensor([[20, 0, 5], [0, 0, 15]])
"""Two clients; nobody holds class 1."""
OBJECTIVES: dict[str, Callable[[ClassWeightedEnsemble], FedFTGObjective | DFRDObjective]] = {
    "FedFTG": lambda ensemble: FedFTGObjective(ensemble, classification_weight=1.0, diversity_weight=1.0),
    "DFRD": lambda ensemble: DFRDObjective(ensemble, transfer_weight=1.0, diversity_weight=1.0),
}


@pytest.fixture(params=OBJECTIVES)
def make(request: pytest.FixtureRequest, blueprint: Blueprint) -> Callable[..., GeneratorDistillationTask]:
    """Build the same task again and again, for either method."""

    def task(
        settings: GeneratorDistillationSettings = TINY, seed: int = 1, earlier: EarlierGenerator | None = None
    ) -> GeneratorDistillationTask:
        members = [blueprint.build(blueprint.initial(client + 1)) for client in range(2)]
        objective = OBJECTIVES[request.param](ClassWeightedEnsemble(members, class_shares(COUNTS).T))
        torch.manual_seed(0)
        generator = settings.build_generator((1, 8, 8), 3)
        student = blueprint.build(blueprint.initial(0))
        return GeneratorDistillationTask(generator, student, objective, COUNTS.sum(0), settings, seed, earlier)

    return task


Make = Callable[..., GeneratorDistillationTask]


def train(
    task: GeneratorDistillationTask, phases: PhaseRunner, generator_updates: int = 5, student_updates: int = 3
) -> dict[str, Tensor]:
    updates = take_turns(generator_updates, student_updates, task.settings.iterations)
    return phases.run(task, updates, seed=0)


def test_both_learn_and_every_update_is_recorded(make: Make, phases: PhaseRunner) -> None:
    task = make()
    before = [copy_of(net) for net in (task.generator, task.student)]
    curves = train(task, phases)
    for net, start in zip((task.generator, task.student), before, strict=True):
        assert all(not torch.equal(p, start[name]) for name, p in net.named_parameters())
    assert len(curves["similarity"]) == 5
    assert len(curves["student"]) == 3
    assert all(curve.isfinite().all() for curve in curves.values())


def test_the_student_keeps_what_does_not_learn(make: Make, phases: PhaseRunner) -> None:
    """Such as features that somebody else has learnt, which a network has frozen."""
    given = make()
    frozen = [p for name, p in given.student.named_parameters() if not name.startswith("head")]
    for parameter in frozen:
        parameter.requires_grad = False
    before, head = [p.clone() for p in frozen], given.student.head.weight.clone()
    train(GeneratorDistillationTask(given.generator, given.student, given.objective, COUNTS.sum(0), TINY, 1), phases)
    assert all(torch.equal(*pair) for pair in zip(frozen, before, strict=True))
    assert not any(p.requires_grad for p in frozen)
    assert not torch.equal(given.student.head.weight, head)


def test_the_judges_stay_frozen_in_eval_mode_with_their_statistics(make: Make, phases: PhaseRunner) -> None:
    task = make()
    before, training = copy_of(task.objective), []
    for member in task.objective.ensemble.members:  # type: ignore[union-attr]
        member.register_forward_hook(lambda net, *_: training.append(any(m.training for m in net.modules())))
    train(task, phases)
    assert len(training) > 5
    assert not any(training)
    assert unchanged(task.objective, before)
    assert all(p.grad is None and not p.requires_grad for p in task.objective.parameters())


def test_only_who_learns_is_in_training_mode(make: Make, phases: PhaseRunner) -> None:
    task, modes = make(), []
    task.generator.register_forward_hook(lambda net, *_: modes.append(("generator", net.training)))
    task.student.register_forward_hook(lambda net, *_: modes.append(("student", net.training)))
    train(task, phases, generator_updates=2, student_updates=2)
    of_generator = [("generator", True), ("student", False)]
    of_student = [("generator", False), ("student", True)]
    assert modes == [*of_generator, *of_student, *of_generator, *of_student]


def test_generator_updates_leave_the_student_alone(make: Make, phases: PhaseRunner) -> None:
    task = make()
    student, generator = copy_of(task.student), copy_of(task.generator)
    train(task, phases, student_updates=0)
    assert unchanged(task.student, student)
    assert not unchanged(task.generator, generator)
    assert all(parameter.grad is None for parameter in task.student.parameters())


def test_student_updates_leave_the_generator_alone(make: Make, phases: PhaseRunner) -> None:
    task = make()
    generator = copy_of(task.generator)
    train(task, phases, generator_updates=0)
    assert unchanged(task.generator, generator)


@for_each("frozen", [True, False])
def test_the_students_statistics_stay_where_asked_to(make: Make, phases: PhaseRunner, frozen: bool) -> None:
    task = make(replace(TINY, freeze_statistics=frozen))
    means = [layer.running_mean.clone() for layer in batch_norms(task.student).values()]
    train(task, phases)
    kept = [
        torch.equal(layer.running_mean, mean)
        for layer, mean in zip(batch_norms(task.student).values(), means, strict=True)
    ]
    assert kept == [frozen] * 3


def test_the_same_seed_gives_the_same_nets_bit_for_bit(make: Make, phases: PhaseRunner) -> None:
    first, second, other = make(), make(), make(seed=2)
    for task in (first, second, other):
        train(task, phases)
    for name in ("generator", "student"):
        assert unchanged(getattr(second, name), copy_of(getattr(first, name)))
        assert not unchanged(getattr(other, name), copy_of(getattr(first, name)))


@for_each(("redraw", "different"), [(True, 8), (False, 2)])
def test_noise_is_drawn_for_every_update_or_once_for_each_block(
    make: Make, phases: PhaseRunner, redraw: bool, different: int
) -> None:
    task = make(replace(TINY, redraw=redraw))
    asked = inputs_of(task.generator)
    train(task, phases)
    assert len(asked) == 8
    assert len({noise.sum().item() for noise, _ in asked}) == different


def test_the_earlier_generator_makes_its_share_of_the_students_images_alone(make: Make, phases: PhaseRunner) -> None:
    torch.manual_seed(5)
    remembered = TINY.build_generator((1, 8, 8), 3).eval().requires_grad_(False)
    task = make(earlier=EarlierGenerator(remembered, 0.25))
    before, of_earlier, of_latest = copy_of(remembered), inputs_of(remembered), inputs_of(task.generator)
    train(task, phases, generator_updates=0)
    assert [len(labels) for _, labels in of_earlier] == [2, 2, 2]
    assert [len(labels) for _, labels in of_latest] == [6, 6, 6]
    assert unchanged(remembered, before)


@for_each(("share", "asked"), [(0.0, (0, 3)), (1.0, (3, 0))])
def test_a_share_of_nothing_or_everything_asks_one_generator(
    make: Make, phases: PhaseRunner, share: float, asked: tuple[int, int]
) -> None:
    remembered = TINY.build_generator((1, 8, 8), 3).eval().requires_grad_(False)
    task = make(earlier=EarlierGenerator(remembered, share))
    calls = inputs_of(remembered), inputs_of(task.generator)
    train(task, phases, generator_updates=0)
    assert tuple(map(len, calls)) == asked


def test_clients_take_turns_in_judging_for_fedftg(blueprint: Blueprint, phases: PhaseRunner) -> None:
    """Both clients hold class 2 alone, so that each has a say in every image; turns go on over the blocks."""
    members = [blueprint.build(blueprint.initial(client)) for client in range(2)]
    objective = OBJECTIVES["FedFTG"](ClassWeightedEnsemble(members, torch.full((2, 3), 0.5)))
    generator, student = TINY.build_generator((1, 8, 8), 3), blueprint.build(blueprint.initial(5))
    task = GeneratorDistillationTask(generator, student, objective, torch.tensor([0, 0, 9]), TINY, seed=0)
    judges: list[int] = []
    for number, member in enumerate(members):
        member.register_forward_pre_hook(lambda *_, number=number: judges.append(number))
    train(task, phases, generator_updates=6, student_updates=0)
    assert judges == [0, 1, 0, 1, 0, 1]


def test_a_client_without_any_of_the_labels_asks_for_diversity_alone(blueprint: Blueprint, random) -> None:  # type: ignore[no-untyped-def]
    members = [blueprint.build(blueprint.initial(client)) for client in range(2)]
    ensemble = ClassWeightedEnsemble(members, torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    conditions = draw_conditions(torch.tensor([1, 1, 0]), 4, 6, random)
    images, student = torch.rand(6, 1, 8, 8, generator=random), blueprint.build(blueprint.initial(5))
    objective = OBJECTIVES["FedFTG"](ensemble)
    assert objective.generator_terms(images, conditions, student, update=1).keys() == {"similarity"}
    assert objective.generator_terms(images, conditions, student, update=0).keys() > {"similarity"}


def test_turns_go_on_from_round_to_round(blueprint: Blueprint, random) -> None:  # type: ignore[no-untyped-def]
    """Two rounds of one update each, for two clients, of whom the first knows none of the labels."""
    members = [blueprint.build(blueprint.initial(client)) for client in range(2)]
    ensemble = ClassWeightedEnsemble(members, torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    conditions = draw_conditions(torch.tensor([1, 1, 0]), 4, 6, random)
    images, student = torch.rand(6, 1, 8, 8, generator=random), blueprint.build(blueprint.initial(5))
    rounds = [FedFTGObjective(ensemble, 1.0, 1.0, first) for first in (0, 1)]
    heard = ["disagreement" in each.generator_terms(images, conditions, student, update=0) for each in rounds]
    assert heard == [False, True]


def test_one_clients_terms_are_means_over_all_images_of_the_batch(blueprint: Blueprint, random) -> None:  # type: ignore[no-untyped-def]
    """Against a loop over the images, those that the client knows nothing of counting 0."""
    members = [blueprint.build(blueprint.initial(client)).eval() for client in range(2)]
    weights = torch.tensor([[0.75, 0.0, 0.2], [0.25, 1.0, 0.8]])
    conditions = draw_conditions(torch.tensor([1, 1, 1]), 4, 6, random)
    images, student = torch.rand(6, 1, 8, 8, generator=random), blueprint.build(blueprint.initial(5)).eval()
    terms = FedFTGObjective(ClassWeightedEnsemble(members, weights), 2.0, 1.0).generator_terms(
        images, conditions, student, update=2
    )
    classification = disagreement = 0.0
    for image, label in zip(images, conditions.labels.tolist(), strict=True):
        ours, theirs = student(image[None])[0], members[0](image[None])[0]
        classification -= (weights[0, label] * theirs.log_softmax(-1)[label]).item()
        disagreement += (weights[0, label] * (ours - theirs).abs().sum() / 3).item()
    assert terms["classification"].item() == pytest.approx(2 * classification / 6, rel=1e-4)
    assert terms["disagreement"].item() == pytest.approx(-disagreement / 6, rel=1e-4)


@pytest.mark.slow
def test_the_generator_learns_to_be_recognised(make: Make, phases: PhaseRunner) -> None:
    task = make(replace(TINY, generator_learning_rate=1e-2, batch_size=16))
    for member in task.objective.ensemble.members:  # type: ignore[union-attr]
        member.head.weight.mul_(20)
    curves = train(task, phases, generator_updates=120, student_updates=0)
    curve = curves.get("classification", curves.get("fidelity"))
    assert curve is not None
    assert curve[-20:].mean() < 0.8 * curve[:20].mean()


def test_the_student_comes_to_follow_the_ensemble(make: Make, phases: PhaseRunner) -> None:
    task = make(replace(TINY, student_learning_rate=0.5, batch_size=32))
    for member in task.objective.ensemble.members:  # type: ignore[union-attr]
        member.head.bias.copy_(torch.tensor([0.0, -5.0, 0.0]))
    curve = train(task, phases, generator_updates=0, student_updates=60)["student"]
    assert curve[-10:].mean() < 0.8 * curve[:5].mean()


def test_labels_are_drawn_as_often_as_the_clients_hold_them(random: torch.Generator) -> None:
    """10,000 draws: the standard error of a share is at most 0.005, four of which are allowed for."""
    noise, labels, _ = draw_conditions(torch.tensor([10, 0, 70, 20]), 4, 10_000, random)
    shares = torch.bincount(labels, minlength=4) / 10_000
    assert shares[1] == 0
    assert shares.tolist() == pytest.approx([0.1, 0, 0.7, 0.2], abs=0.02)
    assert noise.shape == (10_000, 4)
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_only_held_classes_are_asked_for_in_training(make: Make, phases: PhaseRunner) -> None:
    task = make()
    asked = inputs_of(task.generator)
    train(task, phases)
    assert set(torch.cat([labels for _, labels in asked]).tolist()) == {0, 2}


@for_each(("generator", "student", "blocks"), [(461, 46, 10), (3, 0, 10), (0, 1, 7), (8, 9, 1)])
def test_the_blocks_add_up_and_are_even(generator: int, student: int, blocks: int) -> None:
    updates = take_turns(generator, student, blocks)
    assert len(updates) == blocks
    for total, parts in ((generator, [t[0] for t in updates]), (student, [t[1] for t in updates])):
        assert sum(parts) == total
        assert max(parts) - min(parts) <= 1


def test_the_first_optimiser_is_the_generators_and_the_second_the_students(make: Make) -> None:
    task = make(replace(TINY, generator_learning_rate=0.25, generator_betas=(0.1, 0.2), student_weight_decay=0.3))
    adam, sgd = (optimizer.param_groups[0] for optimizer in task.configure_optimizers())
    assert (adam["lr"], tuple(adam["betas"])) == (0.25, (0.1, 0.2))
    assert (sgd["lr"], sgd["weight_decay"], sgd["momentum"]) == (0.1, 0.3, 0)
    for group, net in ((adam, task.generator), (sgd, task.student)):
        assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in net.parameters()}


@for_each(
    ("setting", "value", "expected"),
    [
        ("iterations", 0, "above 0"),
        ("batch_size", 0, "at least 2 images"),
        ("iterations", 1.5, "a whole number"),
        ("latent_dim", 0, "above 0"),
        ("width", 0, "above 0"),
        ("generator_learning_rate", 0.0, "above 0"),
        ("student_learning_rate", -1.0, "above 0"),
        ("student_weight_decay", -1.0, "0 or more"),
    ],
)
def test_what_cannot_be_trained_is_refused(setting: str, value: float, expected: str) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.tuning\.{setting}: expected .*{expected}.*, got {value}$"):
        GeneratorDistillationSettings(**{setting: value})
    with pytest.raises(MosaicError, match=r"generator_betas\[1\]: expected a value in \[0, 1\), got 1.0"):
        GeneratorDistillationSettings(generator_betas=(0.9, 1.0))
