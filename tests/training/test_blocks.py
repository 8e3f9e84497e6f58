"""Steps in blocks: the same numbers as one at a time, and one at a time where somebody would notice."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.nets import SmallCNN
from mosaic.nets.gates import TransformerGate
from mosaic.nets.inference import to_pixels
from mosaic.tasks.classification import ClassificationTask
from mosaic.tasks.distillation import DistillationSettings, DistillationTask, LabelledBatch
from mosaic.tasks.gating import GatingTask
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.training.blocks import BLOCK, Blocks
from mosaic.training.manual import ManualTask
from mosaic.training.phases import PhaseRunner

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
STEPS = BLOCK + 3
NET = SmallCNN((1, 8, 8), 3, width=4)


class Watches(Callback):
    """Counts how often a Trainer says that a training step is over; its presence keeps steps apart."""

    calls = 0

    def on_train_batch_end(self, *_: object) -> None:
        Watches.calls += 1


class Taught(ShuffledBatches):
    def __iter__(self) -> Any:
        return (LabelledBatch(*batch) for batch in super().__iter__())


def classification() -> ClassificationTask:
    def loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(net(images), labels)

    momentum = partial(SGD, lr=0.1, momentum=0.9)
    return ClassificationTask(copy.deepcopy(NET), loss, momentum, learning_rate=0.05, view=to_pixels)


def gating() -> GatingTask:
    torch.manual_seed(0)
    return GatingTask(TransformerGate(2, 3, dim=8, feedforward=16), torch.ones(3), 1e-2, average_decay=0.9)


def distillation() -> DistillationTask:
    settings = DistillationSettings(average_decay=0.9, noise=0.03, freeze_statistics=True)
    return DistillationTask(copy.deepcopy(NET), settings)


def generation() -> GenerationTask:
    torch.manual_seed(0)
    settings = GenerationSettings(width=4, latent_dim=4, discriminator_normalization="batch")
    return GenerationTask(settings, copy.deepcopy(NET), torch.full((3,), 1 / 3), num_images=40, seed=0)


def batches(task: ManualTask) -> ShuffledBatches:
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (40, 1, 8, 8), generator=random), torch.randint(3, (40,), generator=random)
    settings = {"batch_size": 8, "steps": STEPS, "seed": 0}
    match task:
        case GatingTask():
            return ShuffledBatches(torch.randn(40, 2, 3, generator=random), labels, **settings)
        case DistillationTask():
            return Taught(images / 255, torch.randn(40, 3, generator=random), **settings)
    return ShuffledBatches(images.to(torch.uint8), labels, **settings)


def trained(make: Callable[[], ManualTask], **trainer: object) -> tuple[ManualTask, dict[str, Tensor]]:
    task = make()
    curves = PhaseRunner({**CPU, **trainer}).run(task, batches(task), seed=0)
    return task, curves


WATCHED = {"callbacks": [{"class_path": "tests.training.test_blocks.Watches"}]}


@pytest.mark.parametrize("make", [classification, gating, distillation, generation])
@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"gradient_clip_val": 0.01}, marks=pytest.mark.slow),
        pytest.param({"precision": "bf16-mixed"}, marks=pytest.mark.slow),
        {"precision": "bf16-mixed", "gradient_clip_val": 0.01},
    ],
)
def test_blocks_change_no_bit(make: Callable[[], ManualTask], trainer: dict[str, object]) -> None:
    Watches.calls = 0
    together, curves = trained(make, **trainer)
    apart, watched = trained(make, **trainer, **WATCHED)
    assert (together.in_blocks, apart.in_blocks) == (True, False)
    assert Watches.calls == STEPS
    states = together.state_dict(), apart.state_dict()
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert all(torch.equal(curves[name], watched[name]) and len(curves[name]) == STEPS for name in watched)
    start = make().state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in states[0].items())


def test_clipping_reaches_the_steps_of_a_block() -> None:
    clipped, free = trained(classification, gradient_clip_val=1e-4)[0], trained(classification)[0]
    moved = [
        sum(float((tensor - NET.state_dict()[name]).abs().sum()) for name, tensor in task.net.state_dict().items())
        for task in (clipped, free)
        if isinstance(task, ClassificationTask)
    ]
    assert moved[0] < 0.9 * moved[1]


def test_data_parallel_ranks_meet_at_every_step() -> None:
    task = classification()
    assert task.amend_trainer({"strategy": "ddp"}, data_parallel=True) == {"strategy": "ddp"}
    assert (task.in_blocks, task.automatic_optimization) == (False, True)


def test_batches_are_drawn_when_their_turn_comes() -> None:
    """A block of pictures would otherwise be ten times as large as a batch."""
    drawn: list[int] = []

    class Counts:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            return (drawn.append(number) or number for number in range(5))

    blocks = Blocks(Counts(), 3)
    assert len(blocks) == 2
    for block in blocks:
        for number in block:
            assert drawn[-1] == number
    assert drawn == list(range(5))
