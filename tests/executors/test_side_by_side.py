"""Clients in lockstep learn what each of them learns alone, up to rounding."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mosaic.cli.main import main
from mosaic.client.local_training import LocalTraining
from mosaic.client.objectives import CrossEntropy, LocalContext, LocalObjective
from mosaic.errors import MosaicError
from mosaic.executors import SideBySideExecutor
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.runs.snapshots import Snapshot
from mosaic.tasks.classification import LocalLoss
from mosaic.tasks.stacked_generation import StackedGenerationTask
from tests.small_runs import TWO_ROUNDS, LinearNet, final_model, fit_arguments, initial_model

SIDE_BY_SIDE = ["--executor=SideBySideExecutor", "--executor.threads=1"]
NO_BATCH_NORM = "--model.net=tests.small_runs.LinearNet"
TWENTY_STEPS = ["--federation.schedule.local_steps=20"]


class Touchy(LocalObjective):
    """Raises for a client without images of the first class."""

    def bind(self, context: LocalContext) -> LocalLoss:
        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            if context.class_counts[0] == 0:
                raise ValueError("no zeros here")
            return torch.nn.functional.cross_entropy(net(images), labels)

        return loss


class Mirrored(LocalObjective):
    """Shows the network other images than its batch."""

    def bind(self, context: LocalContext) -> LocalLoss:
        return lambda net, images, labels: torch.nn.functional.cross_entropy(net(1 - images), labels)


class Shifted(CrossEntropy):
    """Cross-entropy that depends on the client, as a subclass may."""

    def bind(self, context: LocalContext) -> LocalLoss:
        shift = context.class_counts / context.class_counts.sum()
        return lambda net, images, labels: torch.nn.functional.cross_entropy(net(images) + shift, labels)


class WithIndex(LinearNet):
    """Has a buffer that is no part of its weights."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.register_buffer("index", torch.arange(3), persistent=False)


def both(tmp_path: Path, algorithm: str, *more: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The final models of the same run, one client after another and side by side."""
    main(fit_arguments(tmp_path / "serial", algorithm, *more))
    main(fit_arguments(tmp_path / "side", algorithm, *more, *SIDE_BY_SIDE))
    return final_model(tmp_path / "serial"), final_model(tmp_path / "side")


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=tolerance, msg=name)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clients each lockstep had."""
    found: list[int] = []
    original = LocalTraining.together

    def noting(training: LocalTraining, requests: list, states: list) -> list:
        answers = original(training, requests, states)
        found.append(len(answers))
        return answers

    monkeypatch.setattr(LocalTraining, "together", noting)
    return found


def test_twenty_steps_agree_to_a_ten_thousandth(tmp_path: Path, stacks: list[int]) -> None:
    assert_close(*both(tmp_path, "FedAvg", NO_BATCH_NORM, *TWENTY_STEPS))
    assert stacks == [4]


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ("FedAvg", ["--data.augmentation.padding=1", "--data.augmentation.flip=true"]),
        pytest.param("FedProx", ["--algorithm.mu=1"], marks=pytest.mark.slow),
        ("FedVLS", []),
        pytest.param("FedBN", [], marks=pytest.mark.slow),
        ("FedAvg", ["--federation.schedule.local_epochs=1", "--data.partition.alpha=0.3"]),
    ],
    ids=["augmented", "proximal", "vacant classes", "personal statistics", "unequal steps"],
)
def test_every_kind_of_local_training_agrees(
    algorithm: str, more: list[str], tmp_path: Path, stacks: list[int]
) -> None:
    if algorithm == "FedBN":
        for folder, flags in (("serial", []), ("side", SIDE_BY_SIDE)):
            main(fit_arguments(tmp_path / folder, algorithm, *TWO_ROUNDS, *flags))
        ours, theirs = (Snapshot.read(tmp_path / run / "rounds" / "0002").clients for run in ("serial", "side"))
        assert len(ours) == len(theirs) == 4
        for client, state in ours.items():
            assert_close(state.tensors, theirs[client].tensors, tolerance=1e-3)
    else:
        assert_close(*both(tmp_path, algorithm, *more), tolerance=1e-3)
    assert max(stacks) > 1


@pytest.mark.slow
def test_the_whole_method_runs_with_clients_side_by_side(tmp_path: Path, stacks: list[int]) -> None:
    ours, theirs = both(tmp_path, "Mosaic")
    assert stacks == [4]
    assert_close(ours, theirs, tolerance=1e-2)


def test_gans_are_trained_side_by_side_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacked: list[int] = []
    original = StackedGenerationTask.__init__

    def noting(task: StackedGenerationTask, alone: list) -> None:
        stacked.append(len(alone))
        original(task, alone)

    monkeypatch.setattr(StackedGenerationTask, "__init__", noting)
    main([*fit_arguments(tmp_path / "run", "Mosaic"), *SIDE_BY_SIDE])
    assert stacked == [4]
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [each["attempts"] for each in facts["generators"]] == [1] * 4


def test_where_one_client_fails_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skewed = ["--data.partition.alpha=0.1", f"--algorithm.objective={__name__}.Touchy", "--federation.faults.quorum=0"]
    main([*fit_arguments(tmp_path / "run", "FedAvg", *skewed), *SIDE_BY_SIDE])
    said = capsys.readouterr().err
    assert "clients cannot train side by side, and train one after another: no zeros here" in said
    assert "ValueError: no zeros here" in said
    told, dealt = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("summary", "partition"))
    without = [client for client, counts in enumerate(dealt["class_counts"]) if counts[0] == 0]
    assert 0 < len(without) < 4
    assert [each["client"] for each in told["failed"]] == without
    before, after = initial_model(), final_model(tmp_path / "run")
    assert not torch.equal(before["net.head.weight"], after["net.head.weight"])


def test_a_loss_on_other_images_is_not_taken_for_one_on_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_close(*both(tmp_path, "FedAvg", f"--algorithm.objective={__name__}.Mirrored"), tolerance=0)
    assert "one after another: a local objective asked its network about other images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        [f"--algorithm.objective={__name__}.Shifted"],
        pytest.param([f"--model.net={__name__}.WithIndex"], marks=pytest.mark.slow),
        pytest.param(["--model.channels_last=true"], marks=pytest.mark.slow),
        ["--trainer.fast_dev_run=true"],
    ],
    ids=["a subclass of cross-entropy", "a buffer outside the weights", "channels last", "dry run"],
)
def test_clients_stay_side_by_side(more: list[str], tmp_path: Path, stacks: list[int]) -> None:
    if "fast_dev_run" in more[0]:
        main([*fit_arguments(tmp_path / "side", "FedAvg", *more), *SIDE_BY_SIDE])
    else:
        assert_close(*both(tmp_path, "FedAvg", *more))
    assert max(stacks) > 1


def test_one_scaler_for_all_clients_is_refused() -> None:
    with pytest.raises(MosaicError, match=r"trainer\.precision: expected no gradient scaler .* use bf16-mixed"):
        SideBySideExecutor().trainer({"accelerator": "cpu", "devices": 1, "precision": "16-mixed"})


def test_gradients_are_not_clipped_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*fit_arguments(tmp_path / "run", "FedAvg", "--trainer.gradient_clip_val=1"), *SIDE_BY_SIDE])
    assert stop.value.code == 2
    assert "trainer.gradient_clip_val: expected nothing with SideBySideExecutor" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
