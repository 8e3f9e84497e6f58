"""Objects as plain values: enough to tell them apart, and nothing that YAML cannot hold."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from mosaic.algorithms import DistillationSettings, Mosaic
from mosaic.api.description import describe
from mosaic.nets import SmallCNN


class Tied:
    """An object that knows another, which knows it."""

    def __init__(self) -> None:
        self.other: object = None
        self._hidden = 1


def test_whatever_is_described_can_be_written() -> None:
    one, two = Tied(), Tied()
    one.other, two.other = two, one
    values = [
        *(Mosaic(), partial(SmallCNN, width=4), lambda: None, one, nn.Linear(1, 1), {1: {2, 3}, "p": Path("x")}),
        *(np.float32(1.5), np.float64(1.5), np.str_("x"), np.zeros(2), torch.zeros(0), range(2), open, torch.float32),
    ]
    for value in values:
        described = describe(value)
        assert yaml.safe_load(yaml.safe_dump(described)) == described
    assert "_hidden" not in str(describe(one))


def test_what_differs_is_described_differently() -> None:
    pairs = [
        (Mosaic(), Mosaic(distillation=DistillationSettings(steps=7))),
        (SmallCNN, partial(SmallCNN, width=4)),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(1, 2)),
        (nn.ReLU(), nn.Sigmoid()),
    ]
    for one, other in pairs:
        assert describe(one) != describe(other)
        assert describe(one) == describe(one)
