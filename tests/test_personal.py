"""Runs in which a part of every model stays on its client, so that there is no global model."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mosaic.algorithms import FedAvg, FedBN, LocalOnly
from mosaic.cli.main import main
from mosaic.client.own_models import OwnModels, personal_names
from mosaic.client.program import ClientProgram
from mosaic.client.worker import Worker
from mosaic.codec import size_in_bytes
from mosaic.data.images import Images
from mosaic.errors import MosaicError
from mosaic.executors import SerialExecutor
from mosaic.federation.evaluation import Evaluator, Measurement
from mosaic.messages import ClientState, EvaluateRequest, Reply, Request, StateDict, TrainReply, TrainRequest
from mosaic.model_pool import ClientModels
from mosaic.nets import Blueprint, ResNet18, SmallCNN
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.seeding import SERVER, seed_for
from mosaic.training.phases import PhaseRunner
from tests.small_runs import (
    TWO_ROUNDS,
    LinearNet,
    SharedRuns,
    assert_same_run,
    digits,
    final_model,
    fit_arguments,
    fit_other,
    pool_of_kind,
    rows_without_time,
    run_and_die,
    same,
    same_models,
    summary,
    take_steps,
    with_killer,
)

THREE_ROUNDS = "--federation.schedule.collaborative_rounds=3"
NORM = tuple(f"body.{place}." for place in (1, 4, 7))
"""Beginnings of the names of SmallCNN's BatchNorm tensors."""
NORM_BYTES = (16 + 32 + 32) * 4 * 4 + 3 * 8
"""Four vectors of float32 for each layer, and a counter of int64."""


class Recording(SerialExecutor):
    """Keeps everything that crosses."""

    exchanged: ClassVar[list[tuple[Request, Reply]]] = []

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        for request in requests:
            (reply,) = super().map([request])
            Recording.exchanged.append((request, reply))
            yield reply


def record(run: Path, algorithm: str, *more: str) -> list[tuple[Any, Any]]:
    """Run, and return all requests with their replies."""
    Recording.exchanged.clear()
    fit_other(run, algorithm, "--executor=tests.test_personal.Recording", *more)
    return list(Recording.exchanged)


def blueprint_of_digits() -> Blueprint:
    return digits(4).blueprint(partial(SmallCNN, width=16))


def own_models(run: Path) -> dict[int, StateDict]:
    """What the clients' checkpoints hold, by client."""
    return {
        int(path.stem): {name.removeprefix("net."): tensor for name, tensor in load(path)["state_dict"].items()}
        for path in sorted((run / "clients").glob("*.ckpt"))
    }


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def norm_part(model: StateDict) -> StateDict:
    return {name: tensor for name, tensor in model.items() if name.startswith(NORM)}


def rest(model: StateDict) -> StateDict:
    return {name: tensor for name, tensor in model.items() if not name.startswith(NORM)}


def assert_same_own_run(one: Path, other: Path, extended: bool = False) -> None:
    """Same models of all clients and same rows, bit for bit; only times may differ."""
    ours, theirs = own_models(one), own_models(other)
    assert ours.keys() == theirs.keys() != set()
    assert all(same(ours[client], theirs[client]) for client in ours)
    assert rows_without_time(one, extended) == rows_without_time(other, extended)
    assert summary(one)["own_test_accuracy"] == summary(other)["own_test_accuracy"]


# which tensors are personal


class Odd(Classifier):
    """BatchNorm under strange names, twice the same one, without statistics; and norms that are none of it."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.shift = nn.BatchNorm1d(64, track_running_stats=False)
        self.again = self.shift
        self.bn = nn.LayerNorm(64)
        self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False))
        self.head = nn.Linear(64, num_classes)


def made(factory: Any) -> Blueprint:
    return Blueprint(factory, (1, 8, 8), 3, (0.5,), (0.25,))


def test_batch_norm_is_found_by_type_whatever_its_name() -> None:
    affine = {f"{place}.{name}" for place in ("shift", "again") for name in ("weight", "bias")}
    counted = {f"body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert personal_names(made(Odd), "batch_norm") == affine | counted


def test_batch_norm_of_shortcuts_counts() -> None:
    names = personal_names(made(partial(ResNet18, width=2)), "batch_norm")
    assert len(names) == 5 * (1 + 16 + 3)
    assert sum("downsample.1." in name for name in names) == 3 * 5
    assert not any("downsample.0." in name for name in names)


def test_nothing_and_everything_can_be_personal(blueprint: Blueprint) -> None:
    assert personal_names(blueprint, "nothing") == frozenset()
    assert personal_names(blueprint, "model") == set(blueprint.initial(0))
    assert personal_names(made(LinearNet), "batch_norm") == frozenset()


def test_what_is_taken_apart_can_be_joined_again(blueprint: Blueprint) -> None:
    own, model = OwnModels(same_models(blueprint, 2), "batch_norm", seed=0), blueprint.initial(7)
    shared, state = own.split(1, model)
    assert {*shared, *state.tensors} == set(model)
    assert {*shared} & {*state.tensors} == set()
    assert {name.split(".")[1] for name in state.tensors} == {"1", "4", "7"}
    assert same(own.join(1, shared, state), model)


def test_before_a_client_remembers_its_part_is_the_common_start(blueprint: Blueprint) -> None:
    own = OwnModels(same_models(blueprint, 2), "batch_norm", seed=3)
    common = blueprint.initial(seed_for(3, 0, SERVER, "init"))
    assert same(own.join(0, own.initial(), ClientState({})), common)
    assert own.initial().keys() == {name for name in common if not name.startswith(NORM)}


# FedAvg, where there is nothing personal


def test_fedbn_without_batch_norm_is_fedavg(shared_run: SharedRuns, tmp_path: Path) -> None:
    flags = ("--model.net=tests.small_runs.LinearNet", *TWO_ROUNDS)
    ours, theirs = fit_other(tmp_path / "run", "FedBN", *flags), shared_run("FedAvg", *flags)
    assert_same_run(ours, theirs)
    assert summary(ours)["test_accuracy"] == summary(theirs)["test_accuracy"] > 0
    assert summary(ours)["own_test_accuracy"] is None
    assert not (ours / "clients").exists()


@pytest.mark.parametrize("algorithm", ["FedBN", "LocalOnly"])
def test_a_single_clients_own_model_is_fedavgs(algorithm: str, shared_run: SharedRuns, tmp_path: Path) -> None:
    one = ("--data.partition.num_clients=1", *TWO_ROUNDS)
    ours, theirs = fit_other(tmp_path / "ours", algorithm, *one), shared_run("FedAvg", *one)
    expected = {name.removeprefix("net."): tensor for name, tensor in final_model(theirs).items()}
    assert own_models(ours).keys() == {0}
    assert same(own_models(ours)[0], expected)
    assert summary(ours)["own_test_accuracy"] == pytest.approx(summary(theirs)["test_accuracy"], abs=1e-6)


# what crosses


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[tuple[Any, Any]]]]:
    """A run and everything said in it, of one round of FedAvg and two of the others."""
    folder = tmp_path_factory.mktemp("said")
    rounds = {"FedAvg": [], "FedBN": TWO_ROUNDS, "LocalOnly": TWO_ROUNDS}
    return {name: (folder / name, record(folder / name, name, *more)) for name, more in rounds.items()}


def test_fedbn_sends_no_batch_norm_and_everything_else(said: dict[str, Any]) -> None:
    expected = {name for name in blueprint_of_digits().shapes if not name.startswith(NORM)}
    exchanged = said["FedBN"][1]
    assert {type(request) for request, _ in exchanged} == {TrainRequest, EvaluateRequest}
    assert len(exchanged) == 2 * 4 + 4  # all train in two rounds, and judge the last model
    for request, reply in exchanged:
        assert request.model.keys() == expected
        assert not isinstance(reply, TrainReply) or reply.model.keys() == expected


def test_local_only_exchanges_no_model(said: dict[str, Any]) -> None:
    exchanged = said["LocalOnly"][1]
    assert len(exchanged) == 2 * 4 + 4  # all train in two rounds, and judge the last model
    for request, reply in exchanged:
        assert request.model == {}
        assert not isinstance(reply, TrainReply) or reply.model == {}


@pytest.mark.parametrize(
    ("algorithm", "left"), [("FedBN", rest), ("LocalOnly", lambda model: {})], ids=["FedBN", "LocalOnly"]
)
def test_traffic_shrinks_by_what_stays(algorithm: str, left: Any, said: dict[str, Any]) -> None:
    """In round 1 all methods say the same to train a model, but for the tensors."""
    trained = [pair for pair in said["FedAvg"][1] if isinstance(pair[0], TrainRequest)]
    down, up = (
        sum(size_in_bytes(replace(said, model=left(said.model))) for said in way) for way in zip(*trained, strict=True)
    )
    first = rows(said[algorithm][0])[0]
    assert (int(first["bytes_down"]), int(first["bytes_up"])) == (down, up)
    for less, way in zip((down, up), zip(*trained, strict=True), strict=True):
        assert sum(map(size_in_bytes, way)) - less > 4 * NORM_BYTES


# what clients keep


def test_clients_share_all_but_their_own_batch_norm(said: dict[str, Any]) -> None:
    models = own_models(said["FedBN"][0])
    assert models.keys() == {0, 1, 2, 3}
    for one, other in combinations(models.values(), 2):
        assert same(rest(one), rest(other))
        for name in norm_part(one):
            assert name.endswith("num_batches_tracked") or not torch.equal(one[name], other[name])
    assert {int(models[client][f"{NORM[0]}num_batches_tracked"]) for client in models} == {2 * 2}


def test_after_one_round_it_is_fedavgs_average_with_the_clients_own_upload(
    said: dict[str, Any], shared_run: SharedRuns
) -> None:
    models = own_models(shared_run("FedBN"))
    average = {name.removeprefix("net."): tensor for name, tensor in final_model(said["FedAvg"][0]).items()}
    uploads = {reply.client: reply.model for _, reply in said["FedAvg"][1] if isinstance(reply, TrainReply)}
    for client, model in models.items():
        assert same(rest(model), rest(average))
        assert same(norm_part(model), norm_part(uploads[client]))


@pytest.mark.parametrize("algorithm", ["FedBN", "LocalOnly"])
def test_two_rounds_are_two_rounds_of_bare_loops(algorithm: str, said: dict[str, Any]) -> None:
    data, blueprint = digits(4), blueprint_of_digits()
    nets = [blueprint.build(blueprint.initial(seed_for(0, 0, SERVER, "init"))) for _ in range(4)]
    images = [len(data.client(client).train) for client in range(4)]
    for round in (1, 2):
        for client, net in enumerate(nets):
            take_steps(net, data, client, round, steps=2)
        if algorithm == "FedBN":
            models = [net.state_dict() for net in nets]
            for name in rest(models[0]):
                total = sum(count * model[name].double() for count, model in zip(images, models, strict=True))
                mean = (total / sum(images)).float()
                for model in models:
                    model[name].copy_(mean)
    for client, model in own_models(said[algorithm][0]).items():
        for name, expected in nets[client].state_dict().items():
            torch.testing.assert_close(model[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_client_that_never_took_part_has_no_model(tmp_path: Path) -> None:
    run = fit_other(tmp_path / "run", "LocalOnly", "--federation.schedule.participation=0.5")
    assert len(own_models(run)) == 2
    assert summary(run)["own_test_accuracy"] == pytest.approx(mean_by_hand(run))


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "fresh"])
def test_a_client_judges_the_shared_part_with_its_own(trained: bool, phases: PhaseRunner) -> None:
    data, blueprint = digits(4), blueprint_of_digits()
    pool = same_models(blueprint, 4)
    fedbn, plain = (
        Worker(data, pool, partial(torch.optim.SGD, lr=0.1), ClientProgram(personal=personal), phases, seed=0)
        for personal in ("batch_norm", "nothing")
    )
    sent = blueprint.initial(5)
    mine = {name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in norm_part(sent).items()}
    state = ClientState(mine if trained else {})
    common = norm_part(blueprint.initial(seed_for(0, 0, SERVER, "init")))
    whole = {**rest(sent), **(state.tensors or common)}
    assert same(norm_part(whole), common) is not trained
    reply, left = fedbn.handle(EvaluateRequest(2, 1, rest(sent)), state)
    expected, _ = plain.handle(EvaluateRequest(2, 1, whole), ClientState({}))
    assert torch.equal(reply.loss, expected.loss)
    assert reply.loss.sum() > 0
    assert left is state


# what is measured


def mean_by_hand(run: Path) -> float:
    """Mean over clients of their own models' test accuracy, weighted by the images that the partition file lists."""
    data = digits(4)
    test = data.images.test
    listed = json.loads((run / "partition.json").read_text())["clients"]
    total = weight = 0.0
    for client, model in own_models(run).items():
        net = blueprint_of_digits().build(model).eval()
        with torch.no_grad():
            hits = [int(net(pixels[None] / 255).argmax()) == label for pixels, label in zip(*of(test), strict=True)]
        total += len(listed[client]["train"]) * sum(hits) / len(hits)
        weight += len(listed[client]["train"])
    return total / weight


def of(images: Images) -> tuple[Tensor, list[int]]:
    return images.pixels.float(), images.labels.tolist()


@pytest.mark.parametrize("algorithm", ["FedBN", "LocalOnly"])
def test_a_run_reports_the_mean_of_the_clients_own_models(algorithm: str, said: dict[str, Any]) -> None:
    run = said[algorithm][0]
    told = summary(run)
    assert told["own_test_accuracy"] == pytest.approx(mean_by_hand(run), abs=1e-9)
    assert (told["test_accuracy"], told["test_loss"]) == (None, None)
    assert not (run / "global.ckpt").exists()
    last = rows(run)[-1]
    assert (last["test_accuracy"], last["test_loss"]) == ("", "")
    assert float(last["own_test_accuracy"]) == told["own_test_accuracy"]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert len(events.Scalars("clients/own_test_accuracy")) == 2
    assert "server/test_accuracy" not in events.Tags()["scalars"]
    assert "server/confusion" not in events.Tags()["images"]


def test_fedavg_has_a_global_model_and_no_own_ones(said: dict[str, Any]) -> None:
    run = said["FedAvg"][0]
    assert summary(run)["own_test_accuracy"] is None
    assert rows(run)[0]["own_test_accuracy"] == ""
    assert summary(run)["test_accuracy"] == float(rows(run)[0]["test_accuracy"])
    assert not (run / "clients").exists()


class Says(nn.Module):
    """Says one class of every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.logits = nn.functional.one_hot(torch.tensor(label), 3).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_clients_weigh_by_their_images() -> None:
    pixels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    evaluator = Evaluator(Images(pixels, torch.tensor([0, 0, 0, 1])), 3, torch.device("cpu"))
    measured = evaluator.measure_own([(Says(0), 10), (Says(1), 30), (Says(2), 0)])
    assert measured == (10 * 0.75 + 30 * 0.25) / 40
    assert str(Measurement(own_accuracy=measured)) == "own models' test accuracy 37.50 %"
    assert str(Measurement(0.5, own_accuracy=0.25)) == "test accuracy 50.00 %  own models' test accuracy 25.00 %"
    assert str(Measurement()) == "test accuracy -"
    assert evaluator.measure_own([]) is None


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "figure"), [("FedBN", "own_test_accuracy"), ("FedAvg", "test_accuracy")])
def test_models_are_measured_as_often_as_clients_validate(
    algorithm: str, figure: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    sparse = rows(fit_other(tmp_path / "sparse", algorithm, THREE_ROUNDS, "--federation.validate_every=2"))
    dense = rows(shared_run(algorithm, THREE_ROUNDS))
    assert [row[figure] != "" for row in sparse] == [False, True, True]
    assert [row[figure] for row in sparse[1:]] == [row[figure] for row in dense[1:]]
    assert dense[0][figure] != ""


def test_the_table_and_the_log_speak_of_own_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit_other(tmp_path / "run", "FedBN")
    said, logged = capsys.readouterr()
    accuracy = f"{100 * summary(run)['own_test_accuracy']:.2f} %"
    (line,) = [line for line in said.splitlines() if accuracy in line]
    assert "clients' own models" in line
    assert "mean by images" in line
    assert "global model" not in said.replace("there is no global model", "")
    assert f"own models' test accuracy {accuracy}" in logged


def test_lightnings_own_commands_take_a_clients_model(said: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run = said["FedBN"][0]
    assert load(run / "clients" / "02.ckpt")["mosaic"]["client"] == 2
    main(["test", "--config", str(run / "config.yaml"), f"--ckpt_path={run / 'clients' / '02.ckpt'}"])
    assert "test/accuracy" in capsys.readouterr().out


# going on


@pytest.mark.parametrize("algorithm", ["FedBN", pytest.param("LocalOnly", marks=pytest.mark.slow)])
def test_a_run_that_stops_after_a_round_goes_on_bit_for_bit(
    algorithm: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    straight, stopped = shared_run(algorithm, THREE_ROUNDS), fit_other(tmp_path / "stopped", algorithm, *TWO_ROUNDS)
    fit_other(stopped, algorithm, THREE_ROUNDS, "--ckpt_path=auto")
    assert len(rows(stopped)) == 3
    assert_same_own_run(stopped, straight, extended=True)
    fit_other(stopped, algorithm, THREE_ROUNDS, "--ckpt_path=auto")  # all rounds are done: it only measures again
    assert_same_own_run(stopped, straight, extended=True)


@pytest.mark.usefixtures("processes")
def test_a_killed_run_goes_on_bit_for_bit(shared_run: SharedRuns, tmp_path: Path) -> None:
    """It dies at the second of four clients in round 3, which has then replied with other BatchNorm tensors."""
    killed = fit_arguments(tmp_path / "run", "FedBN", THREE_ROUNDS, with_killer("ClassificationTask", 10))
    run_and_die(killed)
    assert not (tmp_path / "run" / "clients").exists()
    main([*killed, "--ckpt_path=auto"])
    assert_same_own_run(tmp_path / "run", shared_run("FedBN", THREE_ROUNDS))


# clients with other models


@pytest.mark.parametrize(
    ("clients", "width"),
    [
        ("--clients.levels=[1.0,0.5]", 8),
        ('--clients.models=["global",{"class_path":"mosaic.nets.SmallCNN","init_args":{"width":6}}]', 6),
        ('--clients.models=[{"class_path":"mosaic.nets.SmallCNN","init_args":{"width":6}}]', 6),
    ],
    ids=["widths", "architectures", "no global one"],
)
def test_local_only_trains_every_clients_own_network(clients: str, width: int, tmp_path: Path) -> None:
    exchanged = record(tmp_path / "run", "LocalOnly", clients)
    assert all(request.model == {} and getattr(reply, "model", {}) == {} for request, reply in exchanged)
    assert [request.client for request, _ in exchanged if isinstance(request, EvaluateRequest)] == [0, 1, 2, 3]
    models = own_models(tmp_path / "run")
    first = 16 if "global" in clients or "levels" in clients else width
    assert [len(models[client]["body.0.weight"]) for client in range(4)] == [first, width, first, width]
    assert not torch.equal(models[1]["head.weight"], models[3]["head.weight"])
    assert 0 < summary(tmp_path / "run")["own_test_accuracy"] < 1


def test_a_narrow_client_starts_as_its_own_blueprint_does(blueprint: Blueprint) -> None:
    pool = ClientModels(levels=[1.0, 0.5]).pool(blueprint, 2, seed=0)
    start = OwnModels(pool, "model", seed=0).join(1, {}, ClientState({}))
    assert same(start, pool.of(1).initial(seed_for(0, 0, SERVER, "init")))


def test_only_methods_that_average_nothing_take_other_architectures() -> None:
    LocalOnly().check_pool(pool_of_kind("architectures"))
    LocalOnly().check_pool(pool_of_kind("widths"))
    FedAvg().check_pool(pool_of_kind("widths"))
    for kind in ("widths", "architectures"):
        with pytest.raises(MosaicError, match="FedBN cannot work with"):
            FedBN().check_pool(pool_of_kind(kind))
