"""What phases get of the ``trainer:`` section, as the command line reads it."""

from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from mosaic.cli.lightning import MosaicCLI, parse_and_run
from mosaic.federation.job import Job
from mosaic.training.instantiation import instantiate
from tests.small_runs import tiny_fit


class Mode(Enum):
    SLOW = 2


class Typed(Callback):
    """Has arguments that a file can hold only as words and lists."""

    def __init__(
        self,
        folder: Path,
        mode: Mode,
        every: timedelta,
        of: Callable[..., Any],
        kinds: tuple[int, int],
        some: set[int],
        named: dict[str, Callback],
        pause: timedelta = timedelta(minutes=1),
    ) -> None:
        self.given = (folder, mode, every, of, kinds, some, type(named["one"]), pause)


def job(tmp_path: Path, *more: str) -> Job:
    return parse_and_run(MosaicCLI, tiny_fit(tmp_path / "run", *more)).job


def test_objects_of_phases_get_arguments_of_their_types(tmp_path: Path) -> None:
    words = (
        '"folder": "x", "mode": "SLOW", "every": "0:05:00", "of": "builtins.len", "kinds": [1, 2], "some": [1], '
        '"named": {"one": {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor"}}'
    )
    path = f"{__name__}.Typed"
    trainer = job(tmp_path, f'--trainer.callbacks=[{{"class_path": "{path}", "init_args": {{{words}}}}}]').phases
    for _ in range(2):
        (made,) = instantiate(trainer._template["callbacks"])
        values = (Path("x"), Mode.SLOW, timedelta(minutes=5), len, (1, 2), {1})
        assert made.given[:-2] == values
        assert (made.given[-2].__name__, made.given[-1]) == ("DeviceStatsMonitor", timedelta(minutes=1))


@pytest.mark.parametrize("strategy", [DDPStrategy, ModelParallelStrategy])
def test_a_strategy_with_settings_is_made_in_every_phase(strategy: type, tmp_path: Path) -> None:
    """Its timeout, which is no plain value, comes with it even where nobody has set it."""
    path = f"--trainer.strategy=lightning.pytorch.strategies.{strategy.__name__}"
    named = job(tmp_path, path, "--trainer.strategy.process_group_backend=gloo").phases._template["strategy"]
    made = instantiate(named)
    assert type(made) is strategy
    assert made._timeout == timedelta(minutes=30)
    assert made.process_group_backend == "gloo"
