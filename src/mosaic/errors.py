"""The exception for user errors, and checks that raise it."""

import argparse
import logging
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, get_args

LARGEST = 1e38
"""Largest number that settings may have, a third of the largest number in single precision."""
LARGEST_COUNT = 10**12
"""Most of anything that settings may ask for; Python and PyTorch count no further than to some 10^18 in all."""
_LONGEST_WORDS = 300
_SHOWN = 5


class MosaicError(Exception):
    """A user error; the message says what was expected, what was got and what to do next.

    The command line prints it in one line and exits; every other exception keeps its traceback.

    Attributes:
        exit_code: exit code of the command: 2 if the request is wrong, 1 if a valid request failed.
    """

    exit_code = 2


def require_positive(section: str, **values: float) -> None:
    """Raise :class:`MosaicError` unless all values, by key, are above zero.

    ``section`` is their place in the configuration, for example ``"algorithm.generation"``.
    """
    for key, value in values.items():
        if not is_number(value) or not 0 < value < LARGEST:
            raise MosaicError(f"{section}.{key}: expected a number above 0{_bound(value)}, got {value}")


def require_at_least_zero(section: str, **values: float) -> None:
    """Raise :class:`MosaicError` unless all values are at least zero; see :func:`require_positive`."""
    for key, value in values.items():
        if not is_number(value) or not 0 <= value < LARGEST:
            raise MosaicError(f"{section}.{key}: expected 0 or more{_bound(value)}, got {value}")


def _bound(value: float) -> str:
    return f" and below {LARGEST:g}" if is_number(value) and value > 0 else ""


def is_number(value: object) -> bool:
    """Whether a value is a number, Python's or numpy's."""
    return isinstance(value, Real)


def require_whole(section: str, **values: object) -> None:
    """Raise :class:`MosaicError` unless all values are whole numbers, numpy's too; see :func:`require_positive`."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise MosaicError(f"{section}.{key}: expected a whole number, got {value!r}")


def require_seed(name: str, seed: object) -> None:
    """Raise :class:`MosaicError` unless a value can seed every generator of random numbers."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise MosaicError(f"{name}: expected a whole number from 0 to {2**32 - 1}, got {seed!r}")


def require_count(section: str, **values: int) -> None:
    """Raise :class:`MosaicError` unless all values can be counted to, from 1 up; see :func:`require_positive`."""
    require_whole(section, **values)
    require_positive(section, **values)
    for key, value in values.items():
        if value > LARGEST_COUNT:
            raise MosaicError(f"{section}.{key}: expected at most {LARGEST_COUNT:,}, got {value}")


def require_share(section: str, **values: float) -> None:
    """Raise :class:`MosaicError` unless all values are in ``[0, 1]``; see :func:`require_positive`."""
    for key, value in values.items():
        if not is_number(value) or not 0 <= value <= 1:
            raise MosaicError(f"{section}.{key}: expected a share in [0, 1], got {value}")


def require_below_one(section: str, **values: float) -> None:
    """Raise :class:`MosaicError` unless all values are in ``[0, 1)``; see :func:`require_positive`."""
    for key, value in values.items():
        if not is_number(value) or not 0 <= value < 1:
            raise MosaicError(f"{section}.{key}: expected a value in [0, 1), got {value}")


def require_betas(section: str, **given: object) -> None:
    """Raise :class:`MosaicError` unless every value, by key, is two decays; see :func:`require_positive`."""
    for key, betas in given.items():
        if not isinstance(betas, Sequence) or isinstance(betas, str) or len(betas) != 2:
            raise MosaicError(f"{section}.{key}: expected two numbers, got {betas!r}")
        require_below_one(section, **{f"{key}[{place}]": beta for place, beta in enumerate(betas)})


def require_choice(section: str, choices: Any, **values: object) -> None:
    """Raise :class:`MosaicError` unless all values are among those of a ``Literal``; see :func:`require_positive`."""
    known = get_args(choices)
    for key, value in values.items():
        if value not in known:
            raise MosaicError(f"{section}.{key}: expected {' or '.join(map(str, known))}, got {value!r}")


def require_kinds(section: str, **given: tuple[object, type]) -> None:
    """Raise :class:`MosaicError` unless every value, by key, is of its kind; see :func:`require_positive`."""
    for key, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise MosaicError(f"{section}.{key}: expected {kind.__name__}, got {kind_of(value)}")


def kind_of(value: object) -> str:
    """Say what a value is: a class by its name, an object by that of its class."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def require_a_batch(section: str, batch_size: int) -> None:
    """Raise :class:`MosaicError` if a batch has a single image, which has no variance for BatchNorm."""
    require_whole(section, batch_size=batch_size)
    if batch_size < 2:
        raise MosaicError(
            f"{section}.batch_size: expected at least 2 images, since one has no variance, got {batch_size}"
        )


def log_failure(log: logging.Logger, client: int, error: BaseException) -> None:
    """Log why a client has failed: a user's mistake in one line, anything else with its traceback."""
    told = isinstance(error, MosaicError)
    log.error("client %d failed: %s", client, error if told else "", exc_info=None if told else error)


def users_mistake(error: BaseException | None) -> BaseException | None:
    """Return the user error behind an exception, if any; jsonargparse wraps ours if a class may be one of several."""
    parsing = error if isinstance(error, argparse.ArgumentError) else None
    while error is not None:
        if isinstance(error, MosaicError):
            return error
        error = error.__cause__ or error.__context__
    return parsing


def settings_of(factory: object) -> str:
    """Describe the settings that jsonargparse or ``functools.partial`` has bound to a factory, for errors."""
    bound = {name: value for name, value in getattr(factory, "keywords", {}).items() if value is not None}
    return f"; made with {', '.join(f'{name}={value}' for name, value in bound.items())}" if bound else ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def abridged(values: Sequence[object]) -> str:
    """Return the first values as text, and whether there are more.

    >>> abridged(range(9))
    '0, 1, 2, 3, 4, ...'
    """
    return ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")


def printable(words: str) -> str:
    r"""Return a stranger's words as one line of at most 300 characters, fit for a log and a terminal.

    >>> printable("fix it\n\x1b[2J")
    'fix it [2J'
    """
    visible = "".join(each if each.isprintable() else " " for each in words)
    return " ".join(visible.split())[:_LONGEST_WORDS]
