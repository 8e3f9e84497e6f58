"""No step mixes devices, asks the GPU for a value or waits for a copy: rehearsed where there is no GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from mosaic.cli.main import main
from mosaic.nets.batchnorm import recalibrate
from mosaic.nets.teacher import FeatureExperts
from mosaic.training.manual import LossTask
from tests.pretend_gpu import GPU, can_pretend, pretend_gpu, rehearse, rehearsed
from tests.small_runs import LinearNet, fit_arguments

pytestmark = pytest.mark.skipif(not can_pretend(), reason="fake CUDA tensors of this PyTorch ask for a driver")
AUGMENTED = ("--data.augmentation.padding=1", "--data.augmentation.flip=true")
SMALL = {
    "FedFTG": ("--algorithm.generator_updates=2", "--algorithm.student_updates=2"),
    "DFRD": ("--algorithm.generator_updates=2", "--algorithm.student_updates=2"),
}
DRY = ("--trainer.fast_dev_run=true",)
MOSAIC = ("GenerationTask", "GatingTask", "DistillationTask")


def found_in(run_dir: Path, algorithm: str, *more: str) -> dict[str, Any]:
    """What the rehearsal of every phase's last step has found, by task."""
    found: dict[str, Any] = {}
    with rehearsed(found):
        main(fit_arguments(run_dir, algorithm, *AUGMENTED, *SMALL.get(algorithm, DRY), *more))
    return found


def assert_lawful(found: dict[str, Any], *trained: str) -> None:
    assert found.keys() == {"TrialStep", "ClassificationTask", *trained}
    for task, outcome in found.items():
        if isinstance(outcome, Exception):
            raise AssertionError(f"{task} breaks the device law") from outcome
        assert not outcome, f"{task} waits for copies in a step: {dict(outcome)}"


@pytest.mark.parametrize(
    ("algorithm", "trained"),
    [
        *(("Mosaic", MOSAIC), ("FedVLS", ())),
        *(
            pytest.param(name, trained, marks=pytest.mark.slow)
            for trained, names in {
                (): ("FedAvg", "FedBN", "FedProx", "FedRS", "PrototypeHead"),
                ("PoolSynthesisTask",): ("DENSE", "CoBoosting"),
                ("GeneratorDistillationTask",): ("FedFTG", "DFRD"),
            }.items()
            for name in names
        ),
    ],
)
def test_every_step_keeps_the_law(algorithm: str, trained: tuple[str, ...], tmp_path: Path) -> None:
    assert_lawful(found_in(tmp_path / "run", algorithm), *trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--model.channels_last=true"],
        ["--algorithm.generation.inversion_weight=0.01", "--algorithm.generation.entropy_weight=1"],
        ["--algorithm.generation.discriminator_normalization=batch", "--algorithm.generation.loss=bce"],
        ["--algorithm.teacher=Transformer"],
        ["--algorithm.teacher=Residual", "--algorithm.teacher.fit_on_prototypes=true"],
        ["--algorithm.distillation.noise=0.1", "--algorithm.distillation.beta=1"],
        ["--trainer.precision=bf16-mixed"],
    ],
    ids=" ".join,
)
def test_so_do_the_steps_of_every_switch(flags: list[str], tmp_path: Path) -> None:
    assert_lawful(found_in(tmp_path / "run", "Mosaic", *flags), *MOSAIC)


class Step(LossTask):
    """One step that does what the test says."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.act = act

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.act(self.weight * batch)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_each_breach_is_seen_and_the_task_comes_back_as_it_was() -> None:
    batch = torch.ones(3)
    lawful = Step(lambda values: values.sum())
    assert not rehearse(lawful, batch)
    assert lawful.weight.tolist() == [1, 1, 1]
    with pytest.raises(DataDependentOutputException):
        rehearse(Step(lambda values: values.sum() / float(values.max())), batch)
    with pytest.raises(RuntimeError, match="same device"):
        rehearse(Step(lambda values: (values + torch.ones(3)).sum()), batch)
    waits = rehearse(Step(lambda values: (values + torch.ones(3).to(values.device)).sum()), batch)
    assert waits == {"cpu to cuda": 1}
    assert rehearse(Step(lambda values: values.sum() + values.detach().cpu().sum()), batch) == {"cuda to cpu": 1}


def test_recalibrated_experts_and_prototypes_meet_on_one_device() -> None:
    """A gate that is trained on features takes the experts' heads to the prototypes, which lie on the CPU."""
    expert = LinearNet((1, 8, 8), 3)  # without BatchNorm, whose plain means ask the device for a count
    with pretend_gpu():
        recalibrate(expert, torch.rand(4, 1, 8, 8).to(GPU))
        heads = FeatureExperts(expert, [expert.head])
        assert heads.from_features(torch.rand(2, expert.head.in_features)).shape == (2, 1, 3)
