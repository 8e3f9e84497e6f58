"""Precision, memory layout and compilation, from the command line to every phase that they are meant for."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import SmallCNN
from mosaic.nets.dcgan import Discriminator, Generator
from mosaic.nets.teacher import ImageExperts
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task
from tests.small_runs import TWO_ROUNDS, final_model, fit_other

Seen = dict[str, set[tuple[torch.dtype, bool]]]
"""By phase: types of what convolutions give, and whether their weights have the channels last."""
TEACHER, MEASURING = "teacher", "measuring"
TRAINED = {
    "Mosaic": {"ClassificationTask", "GenerationTask", "DistillationTask"},
    "CoBoosting": {"ClassificationTask", "PoolSynthesisTask"},
    "FedFTG": {"ClassificationTask", "GeneratorDistillationTask"},
    "DFRD": {"ClassificationTask", "GeneratorDistillationTask"},
}
SOME = ["Mosaic", *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINED if name != "Mosaic")]
"""The rest in the slow suite."""
BUDGET = {
    "CoBoosting": ["--algorithm.student_updates=2", "--algorithm.generator_updates=2", "--algorithm.synthesis_steps=1"],
    "FedFTG": ["--algorithm.student_updates=2", "--algorithm.generator_updates=8"],
    "DFRD": ["--algorithm.student_updates=4", "--algorithm.generator_updates=4"],
}
"""Two rounds' worth for DFRD, so that it remembers a generator."""


@pytest.fixture
def phase(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list whose last entry names the phase that is under way."""
    under_way = [MEASURING]

    @contextmanager
    def within(name: str) -> Iterator[None]:
        under_way.append(name)
        yield
        under_way.pop()

    train, answer = PhaseRunner._run, ImageExperts.forward

    def trains(self: PhaseRunner, task: Task, *args: object) -> dict[str, Tensor]:
        with within(type(task).__name__):
            return train(self, task, *args)  # type: ignore[arg-type]

    def answers(self: ImageExperts, images: Tensor) -> Tensor:
        with within(TEACHER if under_way[-1] == MEASURING else under_way[-1]):
            return answer(self, images)

    monkeypatch.setattr(PhaseRunner, "_run", trains)
    monkeypatch.setattr(ImageExperts, "forward", answers)
    return under_way


@pytest.fixture
def seen(phase: list[str], monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What all convolutions of a run have been seen to do."""
    found: Seen = defaultdict(set)

    def watched(layer: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> None:
        original = layer.forward

        def forward(self: nn.Conv2d, images: Tensor) -> Tensor:
            result = original(self, images)  # type: ignore[arg-type]
            last = self.weight.is_contiguous(memory_format=torch.channels_last)
            first = self.weight.is_contiguous()
            if first != last:  # a kernel of one pixel, or of one channel, lies both ways
                found[phase[-1]].add((result.dtype, last))
            return result

        monkeypatch.setattr(layer, "forward", forward)

    watched(nn.Conv2d)
    watched(nn.ConvTranspose2d)
    return found


def assert_reached(algorithm: str, seen: Seen) -> None:
    """Leave what trains and Mosaic's teacher; the others' ensembles judge in training, and else are only measured."""
    if algorithm != "Mosaic":
        del seen[TEACHER]
    assert seen.keys() == {"TrialStep", *TRAINED[algorithm]} | ({TEACHER} if algorithm == "Mosaic" else set())


def fit(run: Path, algorithm: str, *switches: str) -> Path:
    return fit_other(run, algorithm, *TWO_ROUNDS, *BUDGET.get(algorithm, []), *switches)


@pytest.mark.parametrize("algorithm", SOME)
def test_precision_and_layout_reach_every_phase_that_trains_and_the_teacher(
    algorithm: str, seen: Seen, tmp_path: Path
) -> None:
    """What counts as a figure, or decides, is float32 and lies as ever all the same."""
    run = fit(tmp_path / "run", algorithm, "--trainer.precision=bf16-mixed", "--model.channels_last=true")
    assert seen.pop(MEASURING) == {(torch.float32, False)}
    assert_reached(algorithm, seen)
    assert all(found == {(torch.bfloat16, True)} for found in seen.values())
    assert all(tensor.dtype != torch.bfloat16 for tensor in final_model(run).values())


@pytest.mark.parametrize("algorithm", SOME)
def test_every_network_that_is_trained_or_judges_in_training_is_compiled(
    algorithm: str, phase: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each runs as a compiled module, or inside of one that was called.

    Nothing is compiled here, only asked to: what a compiler makes of a network is PyTorch's affair.
    """
    compiled, under_way = set[nn.Module](), list[nn.Module]()
    ran = defaultdict[str, set[bool]](set)
    call = nn.Module.__call__

    def calls(self: nn.Module, *args: object, **kwargs: object) -> object:
        under_way.append(self)
        if isinstance(self, SmallCNN | Generator | Discriminator):
            ran[phase[-1]].add(not compiled.isdisjoint(under_way))
        try:
            return call(self, *args, **kwargs)
        finally:
            under_way.pop()

    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.add(module))
    monkeypatch.setattr(nn.Module, "__call__", calls)
    fit(tmp_path / "run", algorithm, "--model.compile=true")
    assert {name: ran[name] for name in TRAINED[algorithm]} == {name: {True} for name in TRAINED[algorithm]}
