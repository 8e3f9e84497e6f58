"""Whole runs in which clients have different models."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import nn

from mosaic.algorithms import FedAvg, Mosaic
from mosaic.api.run import Run
from mosaic.errors import MosaicError
from mosaic.executors import SerialExecutor
from mosaic.federation.schedule import Schedule
from mosaic.messages import Reply, Request, StateDict, TrainReply, TrainRequest
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, SmallCNN
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.report.contents import read_run
from mosaic.report.html import page
from mosaic.report.summary import print_summary
from mosaic.runs.tracking import SilentTracker
from mosaic.server.cohort import Judgement
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.state import ServerState
from mosaic.server.uploads import Uploads
from mosaic.training.phases import PhaseRunner
from tests.cli.test_main import refusal
from tests.small_runs import (
    FOUR_ROUNDS,
    TWO_ROUNDS,
    UNSEEN,
    LinearNet,
    SharedRuns,
    assert_same_run,
    digits,
    final_model,
    fit_arguments,
    fit_other,
    pool_of_kind,
    rows_without_time,
    same,
    stages,
    summary,
    tiny_fit,
)

LEVELS = "--clients.levels=[1.0,0.5,0.25]"
SLICINGS = ["FirstChannels", "RandomChannels", "RollingWindow"]
NARROW = {"class_path": "mosaic.nets.SmallCNN", "init_args": {"width": 8}}
OWN = {"class_path": "tests.test_heterogeneous.Pooled"}
SHUFFLE = {"class_path": "mosaic.nets.TorchvisionNet", "init_args": {"name": "shufflenet_v2_x0_5"}}


UNABLE = "--clients.evaluate_whole=false"


def of_models(*models: Any) -> str:
    return f"--clients.models={json.dumps(models)}"


THREE = of_models("global", NARROW, OWN)
"""The four clients of a tiny run have: the global network, two of their own, and the global one again."""


class Pooled(Classifier):
    """A user's own network: mean brightness of quarters of the image."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(16 * image_shape[0], num_classes)


class Overhearing(SerialExecutor):
    """Keeps what is said in local training."""

    heard: ClassVar[list[tuple[TrainRequest, TrainReply]]] = []

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        for request in requests:
            (reply,) = super().map([request])
            if isinstance(request, TrainRequest) and isinstance(reply, TrainReply):
                Overhearing.heard.append((request, reply))
            yield reply


def fit(run: Path, *more: str, algorithm: str = "Mosaic") -> Path:
    fit_other(run, algorithm, *more)
    assert all(tensor.isfinite().all() for tensor in final_model(run).values())
    return run


def overhear(
    run: Path, *more: str, algorithm: str = "Mosaic"
) -> dict[tuple[int, int], tuple[TrainRequest, TrainReply]]:
    """What is said in local training, by round and client."""
    Overhearing.heard.clear()
    fit(run, *more, "--executor=tests.test_heterogeneous.Overhearing", algorithm=algorithm)
    return {(request.round, request.client): (request, reply) for request, reply in Overhearing.heard}


def traffic(run: Path, way: str) -> int:
    return json.loads((run / "summary.json").read_text())[f"bytes_{way}"]["Train"]


# all alike


@pytest.mark.parametrize(
    ("levels", "algorithm"),
    [
        pytest.param("[1]", "Mosaic", marks=pytest.mark.slow),
        ("[1.0,1.0]", "FedAvg"),
        pytest.param("[1.0,1.0]", "Mosaic", marks=pytest.mark.slow),
    ],
)
def test_clients_at_level_one_are_as_if_nothing_had_been_said(
    levels: str, algorithm: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    more = [f"--clients.levels={levels}", "--clients.classifier_rows=all"]
    assert_same_run(fit(tmp_path / "run", *more, algorithm=algorithm), shared_run(algorithm))


# sub-models


@pytest.fixture
def sliced(shared_run: SharedRuns) -> list[Path]:
    """FedAvg with clients at three levels: HeteroFL, Federated Dropout and FedRolex."""
    ways = [f"--clients.slicing=mosaic.nets.{slicing}" for slicing in SLICINGS]
    return [shared_run("FedAvg", *TWO_ROUNDS, LEVELS, way) for way in ways]


def test_the_three_ways_of_slicing_run_and_differ(sliced: list[Path]) -> None:
    models = [final_model(run) for run in sliced]
    assert all({n: t.shape for n, t in model.items()} == {n: t.shape for n, t in models[0].items()} for model in models)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(models[one]["net.body.3.weight"], models[other]["net.body.3.weight"])


def test_they_send_equally_much(sliced: list[Path]) -> None:
    assert len({traffic(run, "down") for run in sliced}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("experts", ["clients", "class_average"])
def test_mosaic_distils_sub_models(experts: str, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", LEVELS, f"--algorithm.experts={experts}")
    assert {"global before distillation", "plain ensemble", "gated teacher", "student"} <= stages(run).keys()
    assert "prototype head" in stages(run)
    assert final_model(run)["net.head.weight"].shape == (10, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches",
    [
        pytest.param(["teacher=Transformer"], marks=pytest.mark.slow),
        ["teacher=Residual", "expert_statistics=recalibrated"],
    ],
    ids=" ".join,
)
def test_other_gates_take_sub_models_in_image_space(switches: list[str], tmp_path: Path) -> None:
    run = fit(tmp_path / "run", LEVELS, *(f"--algorithm.{switch}" for switch in switches))
    assert {"gated teacher", "student"} <= stages(run).keys()


def test_where_nobody_can_judge_the_student_is_taken_unseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path / "run", "--clients.levels=[0.5]", UNABLE)
    assert "round 1: no client can judge the student, so it is taken unseen" in capsys.readouterr().err
    assert rows_without_time(run)[0]["validation_accuracy"] is None
    summary = json.loads((run / "summary.json").read_text())
    assert summary["distilled"]
    assert summary["test_accuracy"] == summary["stages"]["student"]


def tensor_bytes(width: int) -> int:
    """What the small network weighs on 8x8 grey digits: 4 bytes a number, and three counters of 8."""
    convolutions = 9 * width + 9 * width * 2 * width + 9 * 2 * width * 2 * width
    batch_norms = 4 * (width + 2 * width + 2 * width)
    hidden, head = (4 * 2 * width + 1) * 4 * width, (4 * width + 1) * 10
    return 4 * (1 + 1 + convolutions + batch_norms + hidden + head) + 3 * 8


def test_messages_carry_only_what_a_clients_level_holds(shared_run: SharedRuns) -> None:
    """Two rounds, two clients at each level, and nobody judges."""
    levels = ([], ["--clients.levels=[1.0,0.5]"])
    whole, half = (shared_run("FedAvg", *TWO_ROUNDS, "--federation.judging=false", *flags) for flags in levels)
    less = 2 * 2 * (tensor_bytes(16) - tensor_bytes(8))
    assert traffic(whole, "down") - traffic(half, "down") == pytest.approx(less, abs=2 * 4)  # true or false
    assert traffic(whole, "up") - traffic(half, "up") == pytest.approx(less, abs=100)  # digits
    assert traffic(whole, "down") > 2 * 4 * tensor_bytes(16)


def test_half_of_the_channels_are_a_quarter_of_the_convolutions(tmp_path: Path) -> None:
    heard = overhear(tmp_path / "run", "--clients.levels=[1.0,0.5]", algorithm="FedAvg")
    for way in (0, 1):
        whole, half = (heard[1, client][way].model for client in (0, 1))
        assert sum(tensor.nbytes for tensor in whole.values()) == tensor_bytes(16)
        assert sum(tensor.nbytes for tensor in half.values()) == tensor_bytes(8)
        all_of_it, part = (sum(t.nbytes for t in model.values() if t.dim() == 4) for model in (whole, half))
        assert 0.25 < part / all_of_it < 0.255


def test_every_client_starts_from_its_part_of_the_new_average(tmp_path: Path) -> None:
    """What all were sent in round 2, put side by side, is one network."""
    first = "--clients.slicing=mosaic.nets.FirstChannels"
    heard = overhear(tmp_path / "run", *TWO_ROUNDS, LEVELS, first, algorithm="FedAvg")
    whole, half, quarter = (heard[2, client][0].model for client in (0, 1, 2))
    for name in ("body.0.weight", "body.7.running_var", "head.bias"):
        assert torch.equal(half[name], whole[name][: len(half[name])])
        assert torch.equal(quarter[name], whole[name][: len(quarter[name])])
    assert same(heard[2, 3][0].model, whole)


# architectures


@pytest.mark.parametrize(
    "switches",
    [
        [],
        pytest.param(["teacher=Prior"], marks=pytest.mark.slow),
        pytest.param(["teacher=Transformer"], marks=pytest.mark.slow),
        pytest.param(["teacher=Residual", "generation.conditional=false"], marks=pytest.mark.slow),
    ],
    ids=lambda switches: " ".join(switches) or "default",
)
def test_three_architectures_train_from_end_to_end(switches: list[str], tmp_path: Path) -> None:
    run = fit(tmp_path / "run", THREE, *(f"--algorithm.{switch}" for switch in switches))
    measured = stages(run)
    assert {f"expert: client {client}" for client in range(4)} <= measured.keys()
    assert {"gated teacher", "student"} <= measured.keys()
    assert ("prototype head" in measured) == (not switches)  # which only the default teacher asks for
    assert final_model(run)["net.head.weight"].shape == (10, 64)


@pytest.mark.slow
def test_a_network_of_torchvisions_takes_part(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", of_models("global", NARROW, SHUFFLE))
    assert {"expert: client 2", "gated teacher", "student"} <= stages(run).keys()


def test_clients_with_their_own_model_are_sent_none_and_upload_it_to_be_an_expert(tmp_path: Path) -> None:
    heard = overhear(tmp_path / "run", THREE, *FOUR_ROUNDS)
    assert heard.keys() == {(round, client) for round in range(1, 5) for client in range(4)}
    for (round, client), (request, reply) in heard.items():
        own, distils = client in (1, 2), round in (1, 3)
        assert bool(request.model) != own
        assert bool(reply.model) == (distils or not own)
        assert request.keep or not own
    assert sum(tensor.nbytes for tensor in heard[1, 1][1].model.values()) == tensor_bytes(8)
    assert heard[1, 2][1].model["head.weight"].shape == (10, 16)


@pytest.mark.slow
def test_the_books_say_so(shared_run: SharedRuns) -> None:
    """Two clients with the global network, and 300 bytes at most for the request to each of the others."""
    run, plain = shared_run("Mosaic", THREE), shared_run("Mosaic")
    half = traffic(plain, "down") // 2  # what two of four equal clients are sent
    assert 0 < traffic(run, "down") - half < 2 * 300


@pytest.mark.slow
def test_a_client_goes_on_with_its_own_model(tmp_path: Path) -> None:
    """At a rate of next to nothing it uploads in round 3 what it has uploaded in round 1."""
    rates = [f"--federation.schedule.{rate}=1e-12" for rate in ("learning_rate", "fine_tune_learning_rate")]
    heard = overhear(tmp_path / "run", THREE, *FOUR_ROUNDS, *rates)
    for client in (1, 2):
        first, third = (heard[round, client][1].model["head.weight"] for round in (1, 3))
        torch.testing.assert_close(first, third)


def test_what_was_taught_goes_back_once(tmp_path: Path) -> None:
    heard = overhear(tmp_path / "run", THREE, *FOUR_ROUNDS, "--algorithm.teach_back=true", *UNSEEN)
    sent = {place for place, (request, _) in heard.items() if request.model and place[1] in (1, 2)}
    assert sent == {(2, 1), (2, 2), (4, 1), (4, 2)}
    for round, client in sent:
        request, before = heard[round, client][0], heard[round - 1, client][1]
        assert {n: t.shape for n, t in request.model.items()} == {n: t.shape for n, t in before.model.items()}
        assert not same(request.model, before.model)


@pytest.mark.slow
def test_what_was_taught_changes_what_the_client_does_next(tmp_path: Path) -> None:
    """The expert of round 3 has gone on from what came back after round 1."""
    taught, alone = (
        overhear(tmp_path / flag, THREE, *FOUR_ROUNDS, *UNSEEN, f"--algorithm.teach_back={flag}")
        for flag in ("true", "false")
    )
    assert same(taught[1, 1][1].model, alone[1, 1][1].model)
    assert not same(taught[3, 1][1].model, alone[3, 1][1].model)


@pytest.mark.slow
def test_teaching_back_alone_leaves_the_first_student_as_it_is(tmp_path: Path) -> None:
    taught, alone = (
        fit(tmp_path / flag, THREE, *UNSEEN, f"--algorithm.teach_back={flag}") for flag in ("true", "false")
    )
    assert same(final_model(taught), final_model(alone))
    assert stages(taught) == stages(alone)
    assert summary(taught)["own_test_accuracy"] != summary(alone)["own_test_accuracy"]


@pytest.mark.slow
def test_a_student_that_was_refused_teaches_nobody(tmp_path: Path) -> None:
    """At such a rate it forgets everything, and no new head may help it."""
    ruined = [
        "--algorithm.distillation.learning_rate=1000",
        "--algorithm.new_head=false",
        "--federation.schedule.local_steps=30",
    ]
    heard = overhear(tmp_path / "run", THREE, *TWO_ROUNDS, "--algorithm.teach_back=true", *ruined)
    assert not json.loads((tmp_path / "run" / "summary.json").read_text())["distilled"]
    assert not any(request.model for (_, client), (request, _) in heard.items() if client in (1, 2))


def test_a_second_student_that_was_refused_teaches_nobody_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.algorithms.mosaic.accepts", lambda *args: args[-1].plan.round == 1)
    heard = overhear(tmp_path / "run", THREE, *FOUR_ROUNDS, "--algorithm.teach_back=true")
    assert {round for (round, client), (request, _) in heard.items() if request.model and client in (1, 2)} == {2}


@pytest.mark.slow
def test_what_was_taught_waits_for_a_client_that_is_away(tmp_path: Path) -> None:
    """Half of the clients take part in each round: what comes back is sent with the next request, whenever that is."""
    schedule = Schedule(collaborative_rounds=6, distill_rounds=[1, 3], fine_tune_rounds=0, participation=0.5)
    present = {round: schedule.plan(round, 4, 0).clients for round in range(1, 7)}
    more = [
        *("--federation.schedule.participation=0.5", "--federation.schedule.collaborative_rounds=6"),
        *("--federation.schedule.distill_rounds=[1,3]", "--algorithm.teach_back=true", *UNSEEN),
    ]
    heard = overhear(tmp_path / "run", of_models(NARROW), *more)
    assert {round: tuple(c for r, c in heard if r == round) for round in present} == present
    waiting: set[int] = set()
    waits = 0
    for round, clients in present.items():
        for client in clients:
            assert bool(heard[round, client][0].model) == (client in waiting)
        waits += len(waiting - set(clients))
        waiting -= set(clients)
        if round in (1, 3):
            waiting |= set(clients)
    assert waits > 0


@pytest.mark.slow
def test_where_all_have_their_own_architecture_the_student_is_the_first_global_model(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", of_models(NARROW, OWN), *UNSEEN)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_accuracy"] == summary["stages"]["student"]


# models that clients keep


def test_models_of_their_own_are_measured_and_written(tmp_path: Path) -> None:
    run = Run(fit(tmp_path / "run", THREE))
    kept = {client: run.client_model(client) for client in (1, 2)}
    assert sorted(file.stem for file in (run.path / "clients").iterdir()) == ["01", "02"]
    assert [type(net) for net in kept.values()] == [SmallCNN, Pooled]
    data = digits(4)
    images, labels = data.images.test.pixels / 255, data.images.test.labels
    weights = data.class_counts.sum(1)[[1, 2]].double()
    with torch.no_grad():
        right = torch.stack([(net(images).argmax(1) == labels).double().mean() for net in kept.values()])
    told = summary(run.path)
    assert told["own_test_accuracy"] == pytest.approx(float(right @ weights / weights.sum()), abs=1e-9)
    assert told["own_test_accuracy"] != told["test_accuracy"] == float(rows_without_time(run.path)[-1]["test_accuracy"])
    text = io.StringIO()
    print_summary(run.path, Console(file=text, width=200))
    assert f"clients' own models │ {100 * told['own_test_accuracy']:.2f} %" in re.sub(" +", " ", text.getvalue())
    assert "test accuracy of the clients&#39; own models" in page(read_run(run.path))
    with pytest.raises(MosaicError, match=r"expected a client with a model of its own \(01, 02\), got 0"):
        run.client_model(0)


@pytest.mark.parametrize("taught", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_was_taught_last_is_the_model_that_a_client_goes_on_with(taught: bool, tmp_path: Path) -> None:
    heard = overhear(tmp_path / "run", THREE, *UNSEEN, f"--algorithm.teach_back={str(taught).lower()}")
    for client in (1, 2):
        left = Run(tmp_path / "run").client_model(client).state_dict()
        assert same(left, dict(heard[1, client][1].model)) != taught


def test_no_model_is_kept_where_all_run_parts_of_one(shared_run: SharedRuns) -> None:
    run = shared_run("FedAvg", *TWO_ROUNDS, LEVELS, "--clients.slicing=mosaic.nets.FirstChannels")
    assert not (run / "clients").exists()
    assert summary(run)["own_test_accuracy"] is None


# clients that can run the whole network without training it


def test_clients_of_all_widths_judge_and_summarise_unless_they_cannot(tmp_path: Path) -> None:
    able, unable = (fit(tmp_path / name, LEVELS, *flags) for name, flags in (("able", []), ("unable", [UNABLE])))
    sent, less = (summary(run)["bytes_down"] for run in (able, unable))
    assert "Prototype" in sent
    assert "Prototype" not in less
    assert sent["Evaluate"] > less["Evaluate"] > 0
    assert "prototype head" in stages(able)
    assert "prototype head" not in stages(unable)


def test_the_prototype_head_takes_sub_models_of_clients_that_can_run_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "run", LEVELS, algorithm="PrototypeHead")
    arguments = fit_arguments(tmp_path / "unable", "PrototypeHead", LEVELS, UNABLE)
    assert refusal(capsys, *arguments).startswith(
        "mosaic: error: clients.evaluate_whole: expected true, since prototypes are needed"
    )


@pytest.mark.parametrize("differ", [pytest.param(LEVELS, marks=pytest.mark.slow), THREE], ids=["parts", "others"])
def test_what_is_not_the_whole_model_is_judged_by_nobody_as_it_is_received(differ: str, tmp_path: Path) -> None:
    """Rounds are validated by all clients or not at all: by some they could not be compared with the last one."""
    heard = overhear(tmp_path / "run", *FOUR_ROUNDS, differ)
    assert not any(request.judge for request, _ in heard.values())
    rows = (tmp_path / "run" / "validation.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["4"]


@pytest.mark.slow
def test_where_only_those_judge_that_receive_the_whole_they_do_in_every_round(tmp_path: Path) -> None:
    fit(tmp_path / "run", *TWO_ROUNDS, LEVELS, UNABLE, algorithm="FedAvg")
    rows = (tmp_path / "run" / "validation.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2"]


def test_a_clients_own_model_is_told_from_the_global_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path / "run", THREE)
    line = refusal(capsys, "test", "--config", str(run / "config.yaml"), f"--ckpt_path={run / 'clients' / '01.ckpt'}")
    assert "expected a model of the global network, got client 1's own, of another network: mosaic.load(run)" in line


# fine-tuning a student


class Scripted:
    """A cohort whose clients send what they were sent, moved by one, and judge models by their first number."""

    def __init__(self, pool: ModelPool, clients: list[int], verdicts: dict[float, int]) -> None:
        self.pool, self.clients, self.verdicts = pool, clients, verdicts
        self.returned: dict[str, StateDict] = {}

    def train(
        self, model: StateDict, collect: Any, keep: object = (), returned: Any = None, replay: Any = None
    ) -> Uploads:
        self.returned = dict(returned or {})
        uploads: Uploads = collect(self.pool, 5, model)
        for client in self.clients:
            moved = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in model.items()}
            uploads.add(TrainReply(client, moved, torch.ones(3, dtype=torch.long), {"loss": 0.0, "steps": 1}, {}))
        return uploads

    def evaluate(self, model: StateDict) -> Judgement:
        correct = self.verdicts[float(model["normalize.mean"][0])]
        return Judgement(torch.tensor([[correct, 0, 0]]), torch.tensor([[10, 0, 0]]), torch.zeros(1, 3), (0,))


def context_of(blueprint: Blueprint, phases: PhaseRunner, clients: tuple[int, ...], **settings: Any) -> RoundContext:
    plan = RoundPlan(5, 9, clients, 1, 0.0, 0.1, distillation=None)
    pool = ClientModels(**settings).pool(blueprint, 4, seed=0)
    return RoundContext(
        plan, 0, pool, phases, lambda *_: None, SilentTracker(), lambda _: nullcontext(), lambda *_: None
    )


@pytest.mark.parametrize(("before", "after", "taken"), [(5, 6, True), (5, 5, True), (5, 4, False)])
@pytest.mark.parametrize("differ", [{"levels": [1.0, 0.5]}, {"models": ["global", LinearNet]}], ids=["parts", "others"])
def test_fine_tuning_by_sub_models_or_some_clients_is_taken_unless_it_is_worse(
    blueprint: Blueprint, phases: PhaseRunner, differ: dict[str, Any], before: int, after: int, taken: bool
) -> None:
    state = ServerState(blueprint.initial(0), distilled=True)
    context = context_of(blueprint, phases, (0, 2), **differ)
    cohort: Any = Scripted(context.pool, [0, 2], {0.5: before, 1.5: after})
    result = Mosaic().round(state, cohort, context)
    assert result.model["normalize.mean"].item() == (1.5 if taken else 0.5)
    assert result.distilled
    assert taken or same(result.model, state.model)


@pytest.mark.parametrize(("after", "kept"), [(6, 1.5), (4, 0.5)])
def test_a_round_that_distils_again_begins_with_the_better_of_earlier_student_and_average(
    blueprint: Blueprint, phases: PhaseRunner, after: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a new student that is refused leaves an average that nobody has compared with the earlier one."""
    monkeypatch.setattr(Mosaic, "_distil", lambda _, state, *more: state)
    known: Any = tuple(SimpleNamespace(client=client) for client in (0, 2))
    state = ServerState(blueprint.initial(0), generators=known, distilled=True)
    context = context_of(blueprint, phases, (0, 2), levels=[1.0, 0.5])
    distilling = replace(context, plan=replace(context.plan, distillation=(2, 2)))
    cohort: Any = Scripted(context.pool, [0, 2], {0.5: 5, 1.5: after})
    assert Mosaic().round(state, cohort, distilling).model["normalize.mean"].item() == kept


@pytest.mark.parametrize(
    ("settings", "distilled", "moved"),
    [({"levels": [1.0, 0.5]}, False, 1.5), ({}, True, 1.5), ({"models": [LinearNet]}, True, 0.5)],
    ids=["no student yet", "whole models", "nobody trains the global network"],
)
def test_without_a_student_or_training_of_parts_nobody_is_asked(
    blueprint: Blueprint, phases: PhaseRunner, settings: dict[str, Any], distilled: bool, moved: float
) -> None:
    """Scripted clients would raise on a model that they have no verdict on."""
    state = ServerState(blueprint.initial(0), distilled=distilled)
    context = context_of(blueprint, phases, (0, 2), **settings)
    cohort: Any = Scripted(context.pool, [0, 2], {})
    result = Mosaic().round(state, cohort, context)
    assert result.model["normalize.mean"].item() == moved


def test_what_has_arrived_is_not_sent_again_and_what_waits_or_was_declined_still_waits(
    blueprint: Blueprint, phases: PhaseRunner
) -> None:
    on_the_way = {str(client): {"w": torch.full((1,), float(client))} for client in (1, 3, 5)}
    state = ServerState(blueprint.initial(0), returned=on_the_way)
    context = context_of(blueprint, phases, (0, 1, 3), models=["global", LinearNet])
    cohort: Any = Scripted(context.pool, [0, 1], {})  # 3 takes part and declines
    result = Mosaic().round(state, cohort, context)
    assert cohort.returned == on_the_way
    assert result.returned == {client: on_the_way[client] for client in ("3", "5")}


# refusals


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--clients.levels=[0.5]", "--clients.rho=2"], "clients: expected one of models, levels and rho"),
        (
            [THREE, "--algorithm.teacher.heads_only=true"],
            "algorithm.teacher: expected clients that all train the whole",
        ),
        pytest.param(
            [THREE, UNABLE, "--algorithm.teacher=Prototypes"],
            "clients.evaluate_whole: expected true, since prototypes are needed",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [THREE, "--algorithm.experts=class_average"],
            "algorithm.experts: different architectures have no class",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [LEVELS, "--algorithm.teacher.heads_only=true"],
            "algorithm.teacher: expected clients that all train the whole",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [LEVELS, UNABLE, "--algorithm.teacher=Prototypes"],
            "clients.evaluate_whole: expected true, since prototypes are needed",
            marks=pytest.mark.slow,
        ),
        (
            [LEVELS, "--algorithm.experts=class_average", "--algorithm.expert_statistics=pooled"],
            "algorithm.expert_statistics: pooled needs clients that all run the whole network, got sub-models: use",
        ),
        ([LEVELS, "--algorithm.teach_back=true"], "algorithm.teach_back: concerns clients with a model of their own"),
        pytest.param(
            ["--algorithm.teach_back=true"],
            "algorithm.teach_back: concerns clients with a model of their own",
            marks=pytest.mark.slow,
        ),
        (
            [of_models("global", {"class_path": "tests.small_runs.SevenLogits"})],
            "clients.models[1]: expected 10 logits for each image, one per class, got a tensor of shape (2, 7)",
        ),
        (
            [of_models({**SHUFFLE, "init_args": {"name": "alexnet"}})],
            "clients.models[0]: the network cannot take images of 1x8x8: ",
        ),
        (
            [of_models({**SHUFFLE, "init_args": {"name": "shufflenet_v3"}})],
            "clients.models[0]: the network cannot be built: TorchvisionNet: expected the name of an image classifier",
        ),
        (
            [LEVELS, "--model.net=tests.small_runs.LinearNet"],
            "clients.levels: LinearNet does not say how it is scaled: override Classifier.scaled, or give every client",
        ),
        (
            ["--model.net=tests.small_runs.SevenLogits"],
            "model.net: expected 10 logits for each image, one per class, got a tensor of shape (2, 7)",
        ),
        (
            ["--model.net=mosaic.nets.TorchvisionNet", "--model.net.init_args.name=alexnet"],
            "model.net: the network cannot take images of 1x8x8: ",
        ),
        pytest.param(["--clients.slicing=mosaic.nets.Nothing", LEVELS], "Nothing", marks=pytest.mark.slow),
        (["--clients.classifier_rows=some", LEVELS], "classifier_rows"),
    ],
    ids=lambda value: " ".join(flag.removeprefix("--")[:60] for flag in value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_said_before_anything_is_written(
    flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(capsys, *tiny_fit(tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("algorithm", "flag", "says"),
    [
        ("FedAvg", THREE, "clients: FedAvg cannot work with different architectures, whose tensors have no average: "),
        (
            "PrototypeHead",
            THREE,
            "clients: PrototypeHead cannot work with different architectures, whose tensors have ",
        ),
        ("FedBN", LEVELS, "clients: FedBN cannot work with sub-models of different widths: "),
    ],
)
def test_an_algorithm_says_which_pools_it_cannot_work_with_and_which_can(
    algorithm: str, flag: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument for argument in tiny_fit(tmp_path / "run", flag) if not argument.startswith("--algorithm")]
    line = refusal(capsys, *arguments, f"--algorithm=mosaic.algorithms.{algorithm}")
    assert line.startswith(f"mosaic: error: {says}")
    assert "mosaic.algorithms.Mosaic works with all of these" in line
    assert not (tmp_path / "run").exists()


def test_these_algorithms_work_with_these_pools() -> None:
    for algorithm in (FedAvg(), Mosaic()):
        algorithm.check_pool(pool_of_kind("same"))
        algorithm.check_pool(pool_of_kind("widths"))
    Mosaic().check_pool(pool_of_kind("architectures"))
