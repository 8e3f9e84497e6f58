"""Faults on purpose: drawn alike everywhere, and each does what it says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic.cli.main import main
from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.errors import MosaicError
from mosaic.executors import SerialExecutor, SideBySideExecutor, base
from mosaic.executors.base import Envelope, answer, answer_bytes
from mosaic.executors.injection import FAULTS, Injector
from mosaic.messages import (
    ClientState,
    Declined,
    EvaluateReply,
    EvaluateRequest,
    Failed,
    GeneratorReply,
    PrototypeReply,
    PrototypeRequest,
    Reply,
    Request,
    TrainReply,
)
from mosaic.training.deadline import DeadlinePassedError, ending_within, stop_if_late
from mosaic.training.signals import Interruptible
from tests.small_runs import SharedRuns, failed, fit_arguments, rows_without_time

EVALUATE = EvaluateRequest(3, 1, {})
ZEROS = torch.zeros(2)
REPLIES = [
    TrainReply(3, {"count": torch.tensor(1), "weight": torch.ones(2)}, torch.ones(2).long(), {}, {}),
    GeneratorReply(3, {"weight": torch.ones(2)}, torch.ones(2).long(), {}, {}),
    PrototypeReply(3, torch.ones(1, 2), torch.zeros(1).long(), torch.ones(1).long()),
    EvaluateReply(3, ZEROS.long(), ZEROS.long(), ZEROS.double()),
    Declined(3, "tired"),
]


class Prepared(Worker):
    """Gives a prepared reply, and says that its client has changed."""

    images = (1,) * 8  # type: ignore[assignment]

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        return self.reply, ClientState({"kept": torch.ones(1)})


def test_shares_are_met_and_every_attempt_draws_anew() -> None:
    injector = Injector({"nan": 0.2, "crash": 0.1})
    drawn = [injector.draw(EvaluateRequest(client, 1, {})) for _ in range(20) for client in range(200)]
    counts = Counter(drawn)
    assert counts.keys() == {"", "nan", "crash"}
    assert counts["nan"] / len(drawn) == pytest.approx(0.2, abs=0.02)
    assert counts["crash"] / len(drawn) == pytest.approx(0.1, abs=0.02)
    first, second = drawn[:200], drawn[200:400]
    assert first != second


def test_draws_depend_on_the_request_and_not_on_the_order() -> None:
    asked: list[Request] = [EvaluateRequest(1, 1, {}), EvaluateRequest(2, 1, {}), PrototypeRequest(1, 2, {})] * 10
    shares = {"nan": 0.3, "delay": 0.3}
    one, other = Injector(shares), Injector(shares)
    forwards = {index: one.draw(request) for index, request in enumerate(asked)}
    by_client = sorted(range(len(asked)), key=lambda index: index % 3)
    assert {index: other.draw(asked[index]) for index in by_client} == forwards


def test_without_shares_nothing_is_drawn() -> None:
    assert {Injector(shares).draw(EVALUATE) for shares in (None, {}, {"nan": 0.0})} == {""}


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"explosion": 0.1}, "executor.faults: expected kinds out of exception, crash, .*, huge, got explosion"),
        ({"nan": 1.1}, r"executor.faults.nan: expected a share in \[0, 1\], got 1.1"),
        ({"nan": 0.6, "shape": 0.6}, "executor.faults: expected shares .* add up to at most 1, got 1.2"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(shares: dict[str, float], said: str) -> None:
    with pytest.raises(MosaicError, match=said):
        SerialExecutor(faults=shares)


def answered(reply: Any, fault: str, deadline: float | None = None) -> Reply | None:
    """What arrives of a reply from another process; nothing if that cannot be read."""
    request: Any = Envelope(EVALUATE, ClientState({}), deadline, fault)  # type: ignore[arg-type]
    data = answer_bytes(Prepared(reply), encode(request))
    try:
        return decode(data, Envelope).message
    except ValueError:
        return None


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_every_fault_does_what_it_says(reply: Any) -> None:
    assert answered(reply, "exception") == Failed(3, "InjectedError in the client's code: its log says more")
    assert answered(reply, "garbage") is None
    wrong = answered(reply, "sender")
    assert wrong is not None
    assert wrong.client == 4
    plain = answered(reply, "")
    assert type(plain) is type(reply)
    for fault in ("nan", "shape", "huge"):
        spoilt = answered(reply, fault)
        assert type(spoilt) is type(reply)
        if isinstance(reply, Declined):
            assert spoilt == reply
            continue
        tensors, before = (_floats(each) for each in (spoilt, plain))
        if fault == "nan":
            assert any(bool(tensor.isnan().any()) for tensor in tensors)
        elif fault == "shape":
            assert [tensor.shape for tensor in tensors] != [tensor.shape for tensor in before]
        else:
            assert sum(tensor.nbytes for tensor in tensors) >= 64 * 10**6


def _floats(reply: Any) -> list[torch.Tensor]:
    values = [
        each for field in vars(reply).values() for each in (field.values() if isinstance(field, dict) else [field])
    ]
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


@pytest.mark.parametrize("kind", ["crash", "garbage", "exception"])
def test_in_this_process_an_answer_is_lost_and_the_client_stays_as_it_was(kind: str) -> None:
    executor = SerialExecutor(faults={kind: 1.0})
    executor.start(Prepared(REPLIES[-1]))
    (reply,) = executor.map([EVALUATE])
    reasons = {
        "crash": "its process ended",
        "garbage": "it sent bytes that do not decode",
        "exception": "InjectedError in the client's code: its log says more",
    }
    assert reply == Failed(3, reasons[kind])
    assert 3 not in executor.states


def test_what_a_client_returns_that_no_message_can_hold_is_its_own_failure() -> None:
    assert answered({"client": object()}, "") == Failed(3, "TypeError in the client's code: its log says more")


# deadlines in this process


class Slow(Worker):
    """Trains on batches without an end, each of a second; one client needs no time at all.

    Args:
        clock: is set.
        stops: whether it trains on batches of Lightning's, between which it can be stopped.
    """

    images = (1,) * 8  # type: ignore[assignment]

    def __init__(self, clock: list[float], stops: bool) -> None:
        self.clock, self.stops = clock, stops

    def stack_key(self, request: Request) -> None:
        """Nobody trains in lockstep."""

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        if request.client == 0:
            return Declined(0, "tired"), state
        for _ in Interruptible(range(100)) if self.stops else range(100):
            self.clock[0] += 1
        return Declined(request.client, "tired"), ClientState({"kept": torch.ones(1)})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("mosaic.training.deadline.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("kind", [SerialExecutor, SideBySideExecutor])
@pytest.mark.parametrize("stops", [True, False])
def test_a_client_that_takes_longer_than_its_deadline_is_late(
    kind: type[SerialExecutor], stops: bool, clock: list[float]
) -> None:
    executor = kind()
    executor.start(Slow(clock, stops))
    found = list(executor.map([EvaluateRequest(client, 1, {}) for client in (0, 1, 0)], deadline=10.0))
    assert found == [Declined(0, "tired"), Failed(1, "no answer within 10 s"), Declined(0, "tired")]
    assert 1 not in executor.states
    assert clock == [11.0 if stops else 100.0]


def test_outside_a_deadline_nothing_stops(clock: list[float]) -> None:
    with ending_within(5.0):
        with ending_within(None):
            clock[0] += 100
            stop_if_late()
        with pytest.raises(DeadlinePassedError):
            stop_if_late()
    stop_if_late()
    assert list(Interruptible([1, 2])) == [1, 2]


def test_a_delay_lasts_beyond_the_deadline_and_without_one_is_none(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("mosaic.executors.injection.time.sleep", sleep)
    executor = SerialExecutor(faults={"delay": 1.0})
    executor.start(Prepared(REPLIES[-1]))
    assert list(executor.map([EVALUATE], deadline=5.0)) == [Failed(3, "no answer within 5 s")]
    assert list(executor.map([EVALUATE])) == [REPLIES[-1]]
    assert base.time.monotonic() == pytest.approx(5.1)


# whole runs

EACH = {kind: 0.06 for kind in FAULTS if kind not in ("delay", "crash")}
MIXED = json.dumps({**EACH, "crash": 0.06})
LOW = "--federation.faults.quorum=0"


def test_a_run_with_every_fault_completes_and_retries_make_it_whole(tmp_path: Path, shared_run: SharedRuns) -> None:
    """A retry asks the same, so that with enough of them nothing is lost; only the bytes of the attempts are more."""
    rounds = "--federation.schedule.collaborative_rounds=2"
    shares = json.dumps(dict.fromkeys(("exception", "crash", "nan", "shape", "sender", "garbage"), 0.07))
    faulty = [rounds, LOW, f"--executor.faults={shares}"]
    main(fit_arguments(tmp_path / "faulty", "FedAvg", *faulty))
    assert failed(tmp_path / "faulty") != []
    main(fit_arguments(tmp_path / "whole", "FedAvg", *faulty, "--federation.faults.retries=20"))
    assert failed(tmp_path / "whole") == []
    left_out = ("bytes_up", "bytes_down")
    ours, theirs = (
        [{key: value for key, value in row.items() if key not in left_out} for row in rows_without_time(run)]
        for run in (tmp_path / "whole", shared_run("FedAvg", rounds))
    )
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [
        "RanksExecutor",
        pytest.param("RayExecutor", marks=pytest.mark.skipif("not __import__('importlib.util').util.find_spec('ray')")),
    ],
)
def test_every_executor_injects_alike_and_gives_the_same_bits(executor: str, tmp_path: Path) -> None:
    rounds = ["--federation.schedule.collaborative_rounds=3", LOW, f"--executor.faults={MIXED}", "--executor.threads=1"]
    main(fit_arguments(tmp_path / "serial", "Mosaic", *rounds))
    several = [f"--executor=mosaic.executors.{executor}", "--executor.workers=2", *rounds]
    main(fit_arguments(tmp_path / "several", "Mosaic", *several))
    assert len(failed(tmp_path / "serial")) > 3
    assert failed(tmp_path / "several") == failed(tmp_path / "serial")
    assert rows_without_time(tmp_path / "several", extended=True) == rows_without_time(
        tmp_path / "serial", extended=True
    )


@pytest.mark.parametrize("fault", ["", "nan", "shape", "sender", "huge"])
def test_who_is_asked_again_begins_where_it_began(fault: str) -> None:
    before = ClientState({"kept": torch.zeros(1)})
    for reply in (each for each in REPLIES if not isinstance(each, Declined)):
        told = answer(Prepared(reply), EVALUATE, before, fault=fault)
        assert told.state.tensors["kept"].item() == (told.message is reply)
        assert (told.message is reply) == (fault == "")
