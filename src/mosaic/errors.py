"""The one exception that stands for a mistake of the user's and not for one of ours, and how to find it."""

import argparse

LARGEST = 1e38
"""Single precision holds no number that is three times as large."""


class MosaicError(Exception):
    """Something in the request cannot be done: what was expected, what was got, what to do next.

    The command line prints it as one line and leaves; every other exception keeps its traceback.

    Attributes:
        exit_code: of the command: 2 where the request is at fault, 1 where something failed that was to work.
    """

    exit_code = 2


def require_positive(section: str, **values: float) -> None:
    """Refuse settings that must be above zero.

    Args:
        section: where they stand in the configuration, for example ``"algorithm.generation"``.
        values: by key.

    Raises:
        MosaicError: one of them is not.
    """
    for key, value in values.items():
        if not 0 < value < LARGEST:
            raise MosaicError(f"{section}.{key}: expected a number above 0{_bound(value)}, got {value}")


def require_at_least_zero(section: str, **values: float) -> None:
    """Refuse settings that must not be negative; the arguments are those of :func:`require_positive`."""
    for key, value in values.items():
        if not 0 <= value < LARGEST:
            raise MosaicError(f"{section}.{key}: expected 0 or more{_bound(value)}, got {value}")


def _bound(value: float) -> str:
    return f" and below {LARGEST:g}" if value > 0 else ""


def require_share(section: str, **values: float) -> None:
    """Refuse settings that are no share, both ends included; the arguments are those of :func:`require_positive`."""
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise MosaicError(f"{section}.{key}: expected a share in [0, 1], got {value}")


def require_decay(section: str, **values: float) -> None:
    """Refuse settings that are no share below one, as decays are; arguments are those of :func:`require_positive`."""
    for key, value in values.items():
        if not 0 <= value < 1:
            raise MosaicError(f"{section}.{key}: expected a value in [0, 1), got {value}")


def users_mistake(error: BaseException | None) -> BaseException | None:
    """Find the user's mistake behind an exception: jsonargparse wraps ours where a class may be one of several."""
    parsing = error if isinstance(error, argparse.ArgumentError) else None
    while error is not None:
        if isinstance(error, MosaicError):
            return error
        error = error.__cause__ or error.__context__
    return parsing


def settings_of(factory: object) -> str:
    """Say what a class is made with, for errors of its own that do not name the setting at fault; may be empty.

    Args:
        factory: makes an object, with settings that jsonargparse or ``functools.partial`` have bound.
    """
    bound = {name: value for name, value in getattr(factory, "keywords", {}).items() if value is not None}
    return f"; made with {', '.join(f'{name}={value}' for name, value in bound.items())}" if bound else ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
