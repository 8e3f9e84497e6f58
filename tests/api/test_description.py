"""Objects as plain values: enough to tell them apart, and nothing that YAML cannot hold."""

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn

from mosaic.algorithms import DistillationSettings, Mosaic
from mosaic.api.arguments import fit_arguments
from mosaic.api.description import describe
from mosaic.nets import SmallCNN


class Tied:
    """An object that knows another, which knows it."""

    def __init__(self) -> None:
        self.other: object = None
        self._hidden = 1


class Slotted:
    """Keeps what it was made of in slots."""

    __slots__ = ("_decay", "rate")

    def __init__(self, rate: float, decay: float = 0.0) -> None:
        self.rate, self._decay = rate, decay


class Private:
    """Keeps what it was made of to itself, beside a cache of its own."""

    def __init__(self, rate: float) -> None:
        self._rate, self._cache = rate, object()

    def scaled(self, value: float) -> float:
        return self._rate * value


class Counting(Callback):
    """Counts what it has seen."""

    def __init__(self, every: int = 1) -> None:
        self.every, self.phases = every, 0


class Norm(StrEnum):
    """Also text."""

    GROUP = "group-norm"


def momentum(value: float) -> Callable[..., Any]:
    def make(parameters: Any) -> Any:
        return parameters, value, make

    return make


@dataclass
class Settings:
    rate: float


def nested(value: object, times: int = 12) -> object:
    return partial(dict, inner=nested(value, times - 1)) if times else value


def test_whatever_is_described_can_be_written() -> None:
    one, two = Tied(), Tied()
    one.other, two.other = two, one
    values = [
        *(Mosaic(), partial(SmallCNN, width=4), lambda: None, one, nn.Linear(1, 1), {1: {2, 3}, "p": Path("x")}),
        *(np.float32(1.5), np.float64(1.5), np.str_("x"), np.zeros(2), torch.zeros(0), range(2), open, torch.float32),
        *(Slotted(1), Private(1), Counting(), Norm.GROUP, momentum(1)),
        *(Private(1).scaled, partial(Private(1).scaled, 2)),
        *(
            np.array(["ant"]),
            np.array([None, {}], dtype=object),
            np.zeros(2, dtype=">f4"),
            np.zeros(1, "datetime64[D]"),
            np.array(1.0),
            np.array("ant"),
        ),
        *(torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.zeros(2).bfloat16(), torch.zeros(2, 2).T),
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
        (momentum(0.0), momentum(0.9)),
        (partial(momentum(0.0), 1), partial(momentum(0.9), 1)),
        (lambda rate=0.0: rate, lambda rate=0.9: rate),
        (lambda *, rate=0.0: rate, lambda *, rate=0.9: rate),
        (Slotted(0.0), Slotted(0.9)),
        (Slotted(0.0, 0.0), Slotted(0.0, 0.9)),
        (Private(0.0), Private(0.9)),
        (Private(0.0).scaled, Private(0.9).scaled),
        (Counting(1), Counting(2)),
        (nested(0.0), nested(0.9)),
        (torch.float16, torch.float32),
        (np.array(["ant"]), np.array(["bee"])),
        (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
        (np.zeros(2, dtype=">f4"), np.ones(2, dtype=">f4")),
        (torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse()),
        (torch.ones(2).cfloat().conj(), torch.zeros(2).cfloat().conj()),
        *((b"a", b"b"), (1j, np.complex64(2)), (Fraction(1, 2), Fraction(1, 3)), (re.compile("a"), re.compile("b"))),
        *((deque([1]), deque([2])), (timedelta(1), timedelta(2)), (slice(1), slice(2))),
        (torch.arange(4.0).view(2, 2), torch.arange(4.0).view(2, 2).T),
    ]
    for one, other in pairs:
        assert describe(one) != describe(other)
        assert describe(one) == describe(one)


def test_what_is_alike_is_described_alike() -> None:
    """Also where one has been at work since."""
    counted = Counting()
    counted.phases = 7
    pairs = [(counted, Counting()), (Private(1), Private(1)), (Slotted(1), Slotted(1)), (momentum(1), momentum(1))]
    for one, other in pairs:
        assert describe(one) == describe(other)
    assert describe(Counting(2))["attributes"] == {"every": 2}


def closing_over(value: object) -> Callable[[], object]:
    return lambda: value


def test_modules_and_what_holds_the_process_are_told_by_name() -> None:
    """A script's imports may stand inside of a function."""
    for held in (torch, np, nn.functional, logging.getLogger("x"), iter([1]), threading.Lock()):
        described = describe(closing_over(held))
        assert len(str(described)) < 200
        assert yaml.safe_load(yaml.safe_dump(described)) == described
    assert describe(closing_over(Settings(1))) != describe(closing_over(Settings(2)))


def test_an_enumerations_member_goes_by_its_name() -> None:
    assert describe(Norm.GROUP) == "GROUP"
    (_, *_, flag) = fit_arguments([], {"model.norm": Norm.GROUP}, None)
    assert flag == "--model.norm=GROUP"


def test_whatever_yaml_can_hold_is_a_flag() -> None:
    values = {"x.a": float("inf"), "x.b": np.array([0.5, 1.0]), "x.c": {"d": [None, True, "x: y"]}, "x.e": 1e-5}
    flags = fit_arguments([], {**values, "x.f": ["ü" * 99]}, None)[1:]
    assert flags[:2] == ["--x.a=.inf", "--x.b=[0.5, 1.0]"]
    read = {key.removeprefix("--"): yaml.safe_load(value) for key, _, value in (flag.partition("=") for flag in flags)}
    assert read == {**values, "x.b": [0.5, 1.0], "x.f": ["ü" * 99]}
