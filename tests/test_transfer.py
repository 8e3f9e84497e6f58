"""Which copies return before they are done."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mosaic.losses.synthesis import output_diversification
from mosaic.training.task import Task
from mosaic.transfer import needs_no_wait, send

OTHER = torch.device("meta")
"""Stands for any device that is neither a CPU nor a GPU of NVIDIA or AMD."""


class Waits(TorchDispatchMode):
    """Notes of each copy between devices whether it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default:
            self.found.append(not (kwargs or {}).get("non_blocking"))
        return func(*args, **(kwargs or {}))


def move_task() -> None:
    task = Task()
    task.net = nn.Linear(1, 1)
    task.to(OTHER)


@pytest.mark.parametrize(
    "copy",
    [
        lambda: send(torch.ones(2), OTHER),
        lambda: send(nn.Linear(1, 1), OTHER),
        move_task,
        lambda: output_diversification(torch.zeros(1, 2, device=OTHER), 1.0, torch.Generator()),
    ],
    ids=["tensor", "network", "task", "loss"],
)
def test_copies_to_other_devices_are_awaited(copy: Callable[[], object]) -> None:
    with Waits() as waits:
        copy()
    assert waits.found
    assert all(waits.found)


@pytest.mark.parametrize(("device", "without"), [("cuda:0", True), ("mps", False), ("xpu", False), ("cpu", False)])
def test_only_copies_to_gpus_that_read_their_source_at_once_are_not(device: str, without: bool) -> None:
    assert needs_no_wait(torch.device(device)) == without
