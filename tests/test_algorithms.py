"""What must be equal between algorithms, bit for bit, and that every switch can be turned."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mosaic.algorithms import Mosaic
from mosaic.cli.main import main
from mosaic.data import SklearnDigits
from mosaic.errors import MosaicError
from mosaic.federation.schedule import Schedule
from mosaic.generation import Adversarial
from mosaic.nets import SmallCNN
from mosaic.nets.dcgan import Generator
from mosaic.runs.tracking import Tracker
from mosaic.seeding import SERVER, seed_for
from mosaic.server.generators import GeneratedImages, GeneratorMixture
from mosaic.server.state import ServerState
from mosaic.tasks.distillation import DistillationSettings
from mosaic.tasks.generation import GenerationTask
from mosaic.teachers import Fusion, Labels, Mean, Owner, Prior, Residual, TeacherFactory, Transformer
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import (
    DIGITS,
    FOUR_ROUNDS,
    TWO_ROUNDS,
    UNSEEN,
    SharedRuns,
    digits,
    final_model,
    fit_other,
    rows_without_time,
    stages,
    summary,
    take_steps,
    tiny_fit,
)


def test_a_new_head_changes_the_head_alone(shared_run: SharedRuns, tmp_path: Path) -> None:
    """And up to the last round nothing at all."""
    averaged, run = shared_run("FedAvg", *TWO_ROUNDS), fit_other(tmp_path / "run", "PrototypeHead", *TWO_ROUNDS)
    ours, theirs = final_model(run), final_model(averaged)
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"net.head.weight", "net.head.bias"}
    assert rows_without_time(run)[:-1] == rows_without_time(averaged)[:-1]
    assert rows_without_time(run)[-1] != rows_without_time(averaged)[-1]


@pytest.mark.parametrize(("new_head", "other"), [("false", "FedAvg"), ("true", "PrototypeHead")])
def test_mosaic_without_a_distilling_round_is_averaging(
    new_head: str, other: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    flags = ("--federation.schedule.distill_rounds=[]", f"--algorithm.new_head={new_head}")
    ours = final_model(fit_other(tmp_path / "run", "Mosaic", *TWO_ROUNDS, *flags))
    theirs = final_model(shared_run(other, *TWO_ROUNDS))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("algorithm", ["PrototypeHead", "Mosaic"])
def test_rounds_that_are_added_take_the_last_new_head_back(algorithm: str, tmp_path: Path) -> None:
    flags = ("--federation.judging=false", "--federation.schedule.distill_rounds=[1]")  # every new head is taken
    longer = (*flags, "--federation.schedule.collaborative_rounds=1", "--federation.schedule.fine_tune_rounds=2")
    whole = fit_other(tmp_path / "whole", algorithm, *longer)
    added = fit_other(tmp_path / "added", algorithm, *longer[:-1], "--federation.schedule.fine_tune_rounds=1")
    fit_other(added, algorithm, *longer, "--ckpt_path=last")
    ours, theirs = final_model(added), final_model(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_mosaic_without_a_generator_is_fedavg(
    shared_run: SharedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    averaged = shared_run("FedAvg", *TWO_ROUNDS)
    twice = ("--federation.schedule.distill_rounds=[1,2]", "--algorithm.new_head=false")
    main(tiny_fit(tmp_path / "run", "--algorithm.generation.min_count=100000", *TWO_ROUNDS, *twice))
    said = capsys.readouterr().err
    assert said.count("declined: it has no class with 100000 images to learn a generator of") == 2 * 4
    for round in (1, 2):
        assert f"round {round}: no generator to make images with, so nothing is distilled" in said
    ours, theirs = final_model(tmp_path / "run"), final_model(averaged)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "student" not in stages(tmp_path / "run")


def test_fedavg_with_one_client_is_plain_training(tmp_path: Path) -> None:
    """The average of one model is that model: what the client's own phases give when they follow one another."""
    federated = final_model(fit_other(tmp_path / "run", "FedAvg", "--data.partition.num_clients=1", *TWO_ROUNDS))
    data = digits(1)
    blueprint = data.blueprint(partial(SmallCNN, width=16))
    net = blueprint.build(blueprint.initial(seed_for(0, 0, SERVER, "init")))
    for round in (1, 2):
        take_steps(net, data, 0, round, steps=2)
    assert all(torch.equal(tensor, federated[f"net.{name}"]) for name, tensor in net.state_dict().items())


def fit_with(switches: list[str], run: Path, *more: str) -> Path:
    main(tiny_fit(run, *(f"--algorithm.{switch}" for switch in switches), *more))
    return run


@pytest.fixture
def distilled(shared_run: SharedRuns) -> Path:
    """One round of Mosaic with every switch at its default."""
    return shared_run("Mosaic", *UNSEEN)


def test_a_run_books_every_update(distilled: Path, shared_run: SharedRuns) -> None:
    averaged = shared_run("FedAvg", *TWO_ROUNDS)
    books = {run: json.loads((run / "summary.json").read_text())["updates"] for run in (distilled, averaged)}
    assert books[averaged] == {"local": 4 * 2 * 2}, "four clients, two steps, two rounds"
    expected = {"local": 4 * 2, "generator": 4 * 3, "discriminator": 4 * 3, "student": 3}
    assert books[distilled] == expected, "one round that distils"


TOGETHER = [
    [
        "teacher=Transformer",
        "teacher.heads_only=true",
        "teacher.fit_on_prototypes=true",
        "experts=class_average",
        "generation.conditional=false",
    ],
    [
        "teacher=Residual",
        "teacher.fit_on_prototypes=true",
        "distillation.min_confidence=0.9",
    ],
    ["teacher=Prior", "teacher.probabilities=true", "experts=class_average", "expert_statistics=pooled"],
    [
        *(
            "expert_statistics=recalibrated",
            "distillation.noise=0.03",
            "distillation.freeze_statistics=true",
        ),
        *("generation.loss=bce", "generation.discriminator_normalization=batch", "generation.inversion_weight=0.1"),
    ],
    [
        *("objective=mosaic.client.objectives.VacantClass", "generation.min_count=20", "generation.entropy_weight=0.1"),
        *("generation.diversity_target=uniform", "distillation.view.flip=true", "distillation.view.padding=1"),
    ],
]
"""Every switch at a value that is not its default, beside others."""
ALONE = [
    ["teacher=Residual", "experts=class_average"],
    ["teacher=Prior", "teacher.heads_only=true", "distillation.balanced=false"],
    ["teacher=Fusion", "teacher.heads_only=true", "objective=mosaic.client.objectives.PriorAdjusted"],
    ["expert_statistics=recalibrated", "experts=class_average", "teacher=Residual", "teacher.probabilities=true"],
    ["expert_statistics=recalibrated"],
    ["teacher=Transformer", "generation.conditional=false"],
    ["teacher=Residual", "generation.conditional=false"],
    ["teacher=Transformer", "teacher.fit_on_prototypes=true", "experts=class_average", "expert_statistics=pooled"],
    ["distillation.beta=1"],
    ["distillation.min_confidence=0.525"],
    ["distillation.view.padding=1", "distillation.view.flip=true"],
    ["distillation.noise=0.03"],
]


@pytest.mark.slow
@pytest.mark.parametrize("switches", [*TOGETHER, *ALONE], ids=lambda switches: " ".join(switches[:2]))
def test_every_switch_runs_and_makes_a_difference(switches: list[str], distilled: Path, tmp_path: Path) -> None:
    run = fit_with(switches, tmp_path / "run", *UNSEEN)
    assert {"student", "gated teacher", "plain ensemble"} <= stages(run).keys()
    ours, theirs = final_model(run), final_model(distilled)
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert not torch.equal(ours["net.head.weight"], theirs["net.head.weight"])


@pytest.mark.slow
def test_statistics_of_class_averages_make_a_difference_to_the_student(tmp_path: Path) -> None:
    average, pooled, recalibrated = (
        final_model(fit_with(["experts=class_average", f"expert_statistics={kind}"], tmp_path / kind, *UNSEEN))
        for kind in ("average", "pooled", "recalibrated")
    )
    name = "net.head.weight"
    assert not torch.equal(average[name], pooled[name])
    assert not torch.equal(average[name], recalibrated[name])
    assert not torch.equal(pooled[name], recalibrated[name])


@pytest.mark.slow
def test_an_average_student_has_other_weights_and_the_same_statistics(distilled: Path, tmp_path: Path) -> None:
    ours = final_model(fit_with(["distillation.average_decay=0.9"], tmp_path / "run", *UNSEEN))
    theirs = final_model(distilled)
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert {name for name in ours if "running" in name} <= same
    assert "net.head.weight" not in same


@pytest.mark.slow
def test_an_interpolated_student_lies_between_average_and_student(shared_run: SharedRuns, tmp_path: Path) -> None:
    start, plain = final_model(shared_run("FedAvg", *UNSEEN)), "new_head=false"
    # The first share is taken unseen.
    whole = fit_with([plain], tmp_path / "whole", *UNSEEN)
    between = fit_with([plain, "distillation.interpolation=[0.25,1.0]"], tmp_path / "run", *UNSEEN)
    offered = json.loads((between / "summary.json").read_text())
    assert offered["stages"]["student"] == offered["test_accuracy"]
    ours, student = final_model(between), final_model(whole)
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.75 * start[name] + 0.25 * student[name])
    assert not torch.equal(start["net.head.weight"], student["net.head.weight"])


@pytest.mark.slow
def test_every_generator_shows_samples_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client's generator makes images of one brightness of its own."""
    shown: dict[str, set[float]] = {}

    def plain(self: Generator, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers[0].weight.flatten()[0].sigmoid().expand(len(noise), *self.image_shape)

    def keep(self: Tracker, name: str, images: Tensor, *_: object) -> None:
        assert 0 < len(images) <= 64
        shown[name] = set(images.flatten().tolist())

    monkeypatch.setattr(Generator, "forward", plain)
    monkeypatch.setattr(Tracker, "images", keep)
    fit_with([], tmp_path / "run")
    assert shown.keys() == {f"generator/{client:02d}/samples" for client in range(4)}
    assert all(len(brightness) == 1 for brightness in shown.values())
    assert len(set.union(*shown.values())) == 4


# controls


def messages(run: Path) -> set[str]:
    """What clients were asked for in a run."""
    return set(json.loads((run / "summary.json").read_text())["bytes_up"])


@pytest.mark.parametrize(
    ("switches", "teacher", "needs_prototypes"),
    [
        pytest.param(["teacher=Mean"], True, False, marks=pytest.mark.slow),
        pytest.param(["teacher=Mean", "teacher.heads_only=true"], True, False, marks=pytest.mark.slow),
        (["teacher=Prototypes", "distillation.average_decay=0.5"], True, True),
        (
            [
                *("teacher=Owner", "generation.conditional=false"),
                "distillation.origin_weight=0",
            ],
            *(False, False),
        ),
        pytest.param(
            ["teacher=Labels", "distillation.origin_weight=1", "distillation.min_confidence=0.3"],
            *(False, False),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_controls_run_and_ask_only_for_what_they_use(
    switches: list[str], teacher: bool, needs_prototypes: bool, tmp_path: Path
) -> None:
    run = fit_with([*switches, "new_head=false"], tmp_path / "run")
    assert all(tensor.isfinite().all() for tensor in final_model(run).values())
    assert {"global before distillation", "plain ensemble", "student"} <= stages(run).keys()
    assert ("gated teacher" in stages(run)) == teacher
    assert ("Prototype" in messages(run)) == needs_prototypes


@pytest.mark.slow
def test_the_mean_control_is_the_plain_ensemble(tmp_path: Path) -> None:
    measured = stages(fit_with(["teacher=Mean"], tmp_path / "run"))
    assert measured["gated teacher"] == measured["plain ensemble"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(["teacher=Owner"], marks=pytest.mark.slow),
        ["teacher=Transformer", "generation.conditional=false"],
    ],
    ids=["control", "gate"],
)
def test_owners_that_are_away_are_not_asked(switches: list[str], tmp_path: Path) -> None:
    """Half of the clients take part in each round, and those of the two distilling rounds differ."""
    half = Schedule(participation=0.5)
    present = [set(half.plan(round, 4, seed=0).clients) for round in (1, 3)]
    assert present[0] - present[1] != set()
    run = fit_with(switches, tmp_path / "run", "--federation.schedule.participation=0.5", *FOUR_ROUNDS)
    assert "student" in stages(run)


# refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"expert_statistics": "pooled", "experts": "class_average", "teacher": Fusion(heads_only=True)},
            "pooled concerns the experts' bodies.*heads_only: use average, or set that to false",
        ),
        (
            {"expert_statistics": "recalibrated", "teacher": Fusion(heads_only=True)},
            "recalibrated concerns the experts' bodies.*heads_only: use average, or set that to false",
        ),
        (
            {"expert_statistics": "pooled", "experts": "clients"},
            "pooled concerns averages of models.*: use average or recalibrated, or .*experts class_average",
        ),
    ],
    ids=["pooled heads", "recalibrated heads", "pooled clients"],
)
def test_statistics_that_no_expert_has_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.expert_statistics: {says}$") as caught:
        Mosaic(**arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_labels_alone_need_the_origin_to_count() -> None:
    with pytest.raises(MosaicError, match=r"^algorithm\.teacher: Labels .*origin_weight 0 ignores: set it to 1$"):
        Mosaic(teacher=Labels(), distillation=DistillationSettings(origin_weight=0))


@for_each("teacher", [Mean(), Owner(), Prior(probabilities=True), Residual(probabilities=True)])
def test_origins_do_not_count_twice(teacher: TeacherFactory) -> None:
    """A teacher whose answers carry label priors leans to the origin already (METHOD, section 6)."""
    unconditional, ignored = Adversarial(conditional=False), DistillationSettings(origin_weight=0)
    with pytest.raises(MosaicError, match=r"^algorithm\.distillation\.origin_weight: expected 0, .* got 0\.5: set it"):
        Mosaic(generation=unconditional, teacher=teacher)
    Mosaic(generation=unconditional, teacher=teacher, distillation=ignored)
    Mosaic(teacher=teacher)


@for_each("teacher", [Fusion(), Prior(), Residual(), Transformer()])
def test_origins_count_beside_a_teacher_that_has_taken_them_out(teacher: TeacherFactory) -> None:
    Mosaic(generation=Adversarial(conditional=False), teacher=teacher)


@pytest.mark.parametrize(
    ("switches", "key"),
    [
        (["expert_statistics=pooled"], "algorithm.expert_statistics: "),
        (["teacher=Transformer", "teacher.dim=30"], "algorithm.teacher.dim: "),
        (["distillation.average_decay=1"], "algorithm.distillation.average_decay: "),
        (["distillation.view.padding=-1"], "augmentation.padding: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    switches: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny_fit(tmp_path / "run", *(f"--algorithm.{switch}" for switch in switches))
    assert refusal(capsys, *arguments).startswith(f"mosaic: error: {key}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "switches",
    [[], ["teacher=Prototypes"], ["teacher=Transformer", "teacher.heads_only=true", "teacher.fit_on_prototypes=true"]],
    ids=str,
)
def test_a_gate_without_prototypes_names_the_setting(
    switches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [f"--algorithm.{switch}" for switch in [*switches, "prototypes.min_count=100000"]]
    said = refusal(capsys, *tiny_fit(tmp_path / "run", *more))
    assert re.search(r"algorithm\.prototypes\.min_count: expected at most \d+, .* got 100000", said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches", [["teacher=Prior"], pytest.param(["teacher=Residual"], marks=pytest.mark.slow)], ids=str
)
def test_a_gate_that_needs_no_prototypes_asks_for_none(switches: list[str], tmp_path: Path) -> None:
    more = [f"--algorithm.{switch}" for switch in [*switches, "prototypes.min_count=100000", "new_head=false"]]
    main(tiny_fit(tmp_path / "run", *more))
    assert "Prototype" not in json.loads((tmp_path / "run" / "summary.json").read_text())["bytes_up"]


# clients with few images


def test_clients_with_next_to_nothing_take_part_and_give_what_they_know(tmp_path: Path) -> None:
    """A whole run with a client of many images, one of ten, one of a single class, and one of three images."""
    main(["partition", "--config", str(DIGITS), "--data.partition.num_clients=4", "--output", str(tmp_path / "all")])
    saved = json.loads((tmp_path / "all" / "partition.json").read_text())
    labels = SklearnDigits().load().train.labels
    of = [torch.nonzero(labels == digit).flatten().tolist() for digit in range(10)]
    many = [index for own in of for index in own[40:]]
    holdings = [many, [*of[3][:9], *of[8][:1]], of[5][:20], [of[0][0], of[1][0], of[2][0]]]
    saved["clients"] = [{"train": held[1:], "validation": held[:1]} for held in map(sorted, holdings)]
    (tmp_path / "few.json").write_text(json.dumps(saved))
    few = ["--data.partition=mosaic.data.ReplayPartition", f"--data.partition.path={tmp_path / 'few.json'}"]
    arguments = [argument for argument in tiny_fit(tmp_path / "run") if "data.partition" not in argument]
    main([*arguments, *few])
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "run").values())
    told = summary(tmp_path / "run")
    assert [(facts["client"], facts["classes"]) for facts in told["generators"]] == [(0, 10), (1, 1), (2, 1)]
    assert [(each["client"], each["asked"]) for each in told["declined"]] == [(3, "Generator")]


# generators that diverge


@pytest.fixture
def fast_generators_diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every generator that is trained at a rate above 2e-5 end up as something that is no number."""

    class Diverging(GenerationTask):
        def trained_generator(self) -> Generator:
            generator = super().trained_generator()
            if self.settings.learning_rate > 2e-5:
                generator.layers[0].weight[0] = float("nan")
            return generator

    monkeypatch.setattr("mosaic.generation.adversarial.GenerationTask", Diverging)


@pytest.mark.slow
@pytest.mark.usefixtures("fast_generators_diverge")
def test_a_second_try_is_a_warning_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit_with(["generation.learning_rate=1e-4"], tmp_path / "run")
    said = capsys.readouterr().err
    for client in range(4):
        assert f"round 1: the generator of client {client} diverged and was trained once more at a lower rate" in said
    assert "student" in stages(run)
    assert [facts["attempts"] for facts in summary(run)["generators"]] == [2] * 4


@pytest.mark.usefixtures("fast_generators_diverge")
def test_generators_that_never_come_right_leave_the_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit_with(["generation.learning_rate=1e-2"], tmp_path / "run")
    assert capsys.readouterr().err.count("its generator diverged to values that are huge or not finite") == 4
    assert "student" not in stages(run)
    assert summary(run)["generators"] == []
    told = [(each["client"], each["asked"], "diverged" in each["reason"]) for each in summary(run)["declined"]]
    assert told == [(client, "Generator", True) for client in range(4)]
    assert all(tensor.isfinite().all() for tensor in final_model(run).values())


@pytest.mark.slow
def test_statistics_are_recalibrated_on_images_in_random_order(
    distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, seen = [], []
    draw = GeneratorMixture.draw

    def remember(self: GeneratorMixture, count: int, random: torch.Generator) -> GeneratedImages:
        drawn.append(draw(self, count, random))
        return drawn[-1]

    monkeypatch.setattr(GeneratorMixture, "draw", remember)
    monkeypatch.setattr("mosaic.algorithms.mosaic.recalibrate", lambda net, images: seen.append(images))
    fit_with(["expert_statistics=recalibrated"], tmp_path / "run", *UNSEEN)
    (source,) = (source for source in drawn if torch.equal(pixels(source.images), pixels(seen[0])))
    assert source.owners.unique().numel() > 1
    assert not torch.equal(source.images, seen[0])
    assert len(seen) == 4
    assert all(torch.equal(seen[0], each) for each in seen)


def test_where_nobody_knows_a_class_nothing_is_distilled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Generators of clients that are absent draw images about which nobody here can say anything."""
    algorithm, state = Mosaic(), ServerState({})
    monkeypatch.setattr(algorithm, "_mix_generators", lambda *_: SimpleNamespace(class_counts=torch.tensor([[9, 9]])))
    few = SimpleNamespace(replies=[SimpleNamespace(class_counts=torch.tensor([7, 3]))])
    context = SimpleNamespace(plan=SimpleNamespace(round=3))
    with caplog.at_level("WARNING", "mosaic"):
        assert algorithm._distil(state, few, None, context) is state
    assert "round 3: nobody has enough images of any class, so nothing is distilled" in caplog.text


def pixels(images: Tensor) -> Tensor:
    return images.flatten().sort().values
