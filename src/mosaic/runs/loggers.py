"""Lightning's loggers of a run: made once, given the figures of every round, closed in order."""

import inspect
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from PIL import Image

from mosaic.disk import write_whole
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)
LoggerFactory = Callable[[], Logger]
"""Makes a logger; in YAML a ``class_path`` and its arguments."""
_IDENTITIES = ("run_id", "experiment_key", "id")
"""Arguments by which loggers of MLflow, Comet and W&B go on with what they have begun."""


class RunLoggers:
    """The loggers of one run, by the process that writes.

    A logger that fails is left out from then on: a run does not end because a server of figures is away.

    Args:
        given: loggers, or what makes them.
        identities: file in which they leave how to go on with what they have begun.

    Raises:
        MosaicError: one cannot be made.
    """

    def __init__(self, given: Sequence[LoggerFactory | Logger], identities: Path) -> None:
        self._identities = identities
        known = {int(place): identity for place, identity in _read(identities).items()}
        self._loggers = {place: _made(place, each, known.get(place, {})) for place, each in enumerate(given)}
        self._going_on = [place for place in known if place < len(given) and not isinstance(given[place], Logger)]
        self._waiting: dict[int, dict[str, float]] = defaultdict(dict)
        self._finished = 0

    def begin(self, config: Mapping[str, Any]) -> None:
        """Tell new loggers the run's configuration, and keep by what name each can go on.

        Those that go on have one already, and some of them take no other.
        """
        if not self._loggers:
            return
        self._each(lambda logger: logger.log_hyperparams(dict(config)), but=self._going_on)
        names: dict[int, dict[str, Any]] = {}
        for place, logger in self._loggers.items():
            key = next((each for each in _IDENTITIES if each in inspect.signature(type(logger)).parameters), None)
            if key is not None and logger.version is not None:
                names[place] = {key: logger.version}
        write_whole(self._identities, json.dumps(names).encode())

    def scalar(self, name: str, value: float, round: int) -> None:
        """Keep a figure of a round until all of that round are known."""
        if self._loggers:
            self._waiting[round][name] = value

    def tell(self, before: int) -> None:
        """Tell the figures of all rounds before this one, which has finished, a round at a time, in order."""
        self._finished = before
        for round in sorted(each for each in self._waiting if each < before):
            figures = self._waiting.pop(round)
            self._each(partial(_log, figures=figures, round=round))

    def picture(self, name: str, pixels: np.ndarray, round: int) -> None:
        """Give a picture, of shape ``(H, W, 3)``, to those loggers that take pictures: they have ``log_image``."""
        if self._loggers:
            shown = Image.fromarray(pixels)
            self._each(lambda logger: logger.log_image(name, [shown], step=round), having="log_image")

    def close(self, status: str) -> None:
        """Tell what is left, and close all loggers.

        Args:
            status: ``success``, or ``failed`` where the run was interrupted, in Lightning's words. Figures of the round
                that it was interrupted in are lost with its work: who goes on tells them.
        """
        self.tell((max(self._waiting, default=0) if status == "success" else self._finished) + 1)
        self._each(lambda logger: logger.finalize(status))

    def _each(self, do: Callable[[Any], object], having: str = "finalize", but: Sequence[int] = ()) -> None:
        for place, logger in list(self._loggers.items()):
            if place in but or not hasattr(logger, having):
                continue
            try:
                do(logger)
            except Exception as error:  # loggers of other people's services raise whatever they like
                del self._loggers[place]
                log.warning(
                    "federation.loggers[%d] (%s) fails and is left out from now on: %s: %s",
                    *(place, type(logger).__name__, type(error).__name__, first_line(error)),
                )


def _log(logger: Logger, figures: dict[str, float], round: int) -> None:
    logger.log_metrics(figures, step=round)
    logger.save()


def _made(place: int, given: LoggerFactory | Logger, identity: Mapping[str, Any]) -> Logger:
    """Make a logger, which goes on with what an earlier one has begun if it can."""
    if isinstance(given, Logger):
        return given
    try:
        bound = given.keywords if isinstance(given, partial) else {}
        logger = given(**{key: name for key, name in identity.items() if key in bound and bound[key] is None})
    except Exception as error:
        raise MosaicError(
            f"federation.loggers[{place}]: the logger cannot be made ({type(error).__name__}: {first_line(error)}): "
            "install what it needs, or correct its settings"
        ) from error
    if not isinstance(logger, Logger):
        raise MosaicError(
            f"federation.loggers[{place}]: expected a lightning.pytorch.loggers.Logger, or what makes one, got "
            f"{type(logger).__name__}"
        )
    return logger


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
