"""Local training on a client's own images and on those that the server has drawn for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.cli.main import main
from mosaic.client.objectives import LocalContext, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.errors import MosaicError
from mosaic.nets.classifier import Classifier
from mosaic.tasks.classification import LocalLoss
from mosaic.training.phases import PhaseRunner
from tests.client.test_worker import ask, make_worker, same, train_request
from tests.executors.test_side_by_side import NO_BATCH_NORM, assert_close, both
from tests.small_runs import TWO_ROUNDS, rows_without_time, tiny_fit

REPLAY = ["--algorithm.replay.share=0.25", "--algorithm.replay.images=20"]
WHITE = {PIXELS: torch.full((30, 1, 8, 8), 255, dtype=torch.uint8), LABELS: torch.full((30,), 5)}
"""Images that no client of these tests has."""


class Watched(LocalObjective):
    """Cross-entropy that keeps what it is shown."""

    def __init__(self) -> None:
        self.white: list[int] = []
        self.sizes: list[int] = []
        self.counts = torch.zeros(0)

    def bind(self, context: LocalContext) -> LocalLoss:
        self.counts = context.class_counts

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            white = (images == 1).flatten(1).all(1)
            assert (labels[white] == 5).all()
            self.white.append(int(white.sum()))
            self.sizes.append(len(images))
            return F.cross_entropy(net(images), labels)

        return loss


def watched(phases: PhaseRunner, share: float, replay: dict[str, Tensor]) -> tuple[Watched, Any]:
    objective = Watched()
    worker = make_worker(phases, program=ClientProgram(objective=objective, replay=ReplaySettings(share)))
    return objective, ask(worker, train_request(replay=replay))


@pytest.mark.parametrize(("share", "white"), [(0.0, 0), (0.07, 1), (0.25, 4), (0.5, 8), (0.99, 14)])
def test_a_share_of_every_batch_is_replayed(phases: PhaseRunner, share: float, white: int) -> None:
    objective, reply = watched(phases, share, WHITE)
    assert objective.white == [white, white]
    assert objective.sizes == [16, 16], "a batch is as large as without"
    assert reply.num_examples == watched(phases, 0.0, {})[1].num_examples, "a client tells of its own images"


def test_a_share_of_nothing_changes_nothing(phases: PhaseRunner) -> None:
    assert same(watched(phases, 0.5, {})[1], watched(phases, 0.0, WHITE)[1])


def test_an_objective_is_told_the_classes_of_the_batches(phases: PhaseRunner) -> None:
    """Client 0 holds the digits 0, 3, 6 and 9."""
    own, mixed = watched(phases, 0.0, {})[0].counts, watched(phases, 0.25, WHITE)[0].counts
    assert own[5] == 0
    assert mixed[5].item() == pytest.approx(0.25 * own.sum().item())
    torch.testing.assert_close(mixed[0], 0.75 * own[0].double())
    assert mixed.sum().item() == pytest.approx(own.sum().item())


def test_generators_are_asked_for_once_and_replayed_except_where_experts_are_made(tmp_path: Path) -> None:
    """Three rounds, of which the last distils. GANs here: any generator of given classes will do."""
    rounds = ["--federation.schedule.collaborative_rounds=3", "--federation.schedule.distill_rounds=[3]"]
    for folder, flags in (("replayed", REPLAY), ("plain", [])):
        main(tiny_fit(tmp_path / folder, *flags, *rounds))
    ours, theirs = (rows_without_time(tmp_path / folder) for folder in ("replayed", "plain"))
    up, down = ([a[key] - b[key] for a, b in zip(ours, theirs, strict=True)] for key in ("bytes_up", "bytes_down"))
    assert up[0] > 0, "generators cross in the first round"
    assert abs(up[1]) < up[0] / 100
    assert abs(up[0] + up[2]) < up[0] / 50, "and not again in the one that distils"
    sent = 4 * 20 * (64 + 8)
    assert sent <= down[1] <= sent + 4 * 300, "pixels, labels and their names"
    assert abs(down[0]) < 4 * 300, "requests for generators"
    assert abs(down[2]) < 4 * 300


def test_clients_in_lockstep_replay_the_same(tmp_path: Path) -> None:
    never = "--federation.schedule.distill_rounds=[]"
    assert_close(*both(tmp_path, "Mosaic", NO_BATCH_NORM, *REPLAY, *TWO_ROUNDS, never))


def test_a_client_that_declines_is_asked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds = ["--federation.schedule.collaborative_rounds=3", "--federation.schedule.distill_rounds=[]"]
    main(tiny_fit(tmp_path / "run", *REPLAY, *rounds, "--algorithm.generation.min_count=100000"))
    assert capsys.readouterr().err.count("to learn a generator of") == 4


def test_it_needs_generators_of_given_classes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    unconditional = ["--algorithm.generation.conditional=false", "--algorithm.distillation.origin_weight=0"]
    with pytest.raises(SystemExit):
        main(tiny_fit(tmp_path / "run", *REPLAY, *unconditional))
    assert "algorithm.replay.share: expected 0 with generators that" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value"), [("share", 1.0), ("share", -0.1), ("share", float("nan")), ("images", 0)])
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(MosaicError, match=f"algorithm.replay.{key}"):
        ReplaySettings(**{key: value})  # type: ignore[arg-type]
