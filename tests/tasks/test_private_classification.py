"""A step of DP-SGD, by hand."""

import copy
import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.privacy.noise import SecretNoise
from mosaic.tasks.private_classification import PrivateClassificationTask
from mosaic.training.phases import PhaseRunner
from tests.pretend_gpu import rehearse
from tests.small_runs import LinearNet

CLIPPING, DIVISOR = 0.5, 8.0
PIXELS, LABELS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class OneBatch:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield PIXELS, LABELS


def net() -> LinearNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LinearNet((1, 8, 8), 3)


def one_step(phases: PhaseRunner, deviation: float) -> Tensor:
    """How far a step of rate 1 moves all parameters."""
    before = net()
    after, optimizer = copy.deepcopy(before), partial(torch.optim.SGD, lr=9.0)
    phases.run(
        PrivateClassificationTask(
            after, optimizer, 1.0, lambda pixels: pixels, CLIPPING, deviation, DIVISOR, SecretNoise(bytes(32))
        ),
        OneBatch(),
        0,
    )
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return torch.cat([(old - new).detach().flatten() for old, new in pairs])


def test_without_noise_it_is_the_mean_of_clipped_gradients(phases: PhaseRunner) -> None:
    model, expected = net(), torch.zeros(0)
    rows = []
    for image, label in zip(PIXELS, LABELS, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        own = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        rows.append(own / max(1.0, float(own.norm()) / CLIPPING))
    assert any(float(row.norm()) > 0.99 * CLIPPING for row in rows), "else nothing is clipped here"
    expected = torch.stack(rows).sum(0) / DIVISOR
    torch.testing.assert_close(one_step(phases, 0.0), expected, atol=1e-4, rtol=1e-3)


def test_its_noise_has_the_deviation_times_the_clipping_over_the_divisor(phases: PhaseRunner) -> None:
    noise = one_step(phases, 40.0) - one_step(phases, 0.0)
    assert noise.std().item() == pytest.approx(40 * CLIPPING / DIVISOR, rel=4 / math.sqrt(2 * noise.numel()))


def test_no_step_waits_for_a_copy_of_noise() -> None:
    """An empty batch suffices: noise is added to it as well."""
    optimizer, noise = partial(torch.optim.SGD, lr=1.0), SecretNoise(bytes(32))
    task = PrivateClassificationTask(net(), optimizer, 0.1, lambda pixels: pixels, CLIPPING, 1.0, DIVISOR, noise)
    assert not rehearse(task, (PIXELS[:0], LABELS[:0]))
