"""Many cases in one test, where each is over in a moment."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def for_each(
    names: str | Sequence[str], cases: Iterable[Any], **_: object
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Take what ``pytest.mark.parametrize`` takes, and go through all cases in one test; a failure names its case.

    Not for tests with fixtures that remember something, such as ``tmp_path`` or ``capsys``: all cases share them.
    """
    arguments = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    every = list(cases)
    assert every, "a test without a case cannot fail"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*given: object, **fixtures: object) -> None:
            for case in every:
                chosen = dict(zip(arguments, (case,) if len(arguments) == 1 else case, strict=True))
                try:
                    test(*given, **fixtures, **chosen)
                except BaseException as error:
                    error.add_note(f"in the case {chosen}")
                    raise

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        del run.__wrapped__  # type: ignore[attr-defined]  # or pytest would ask for all arguments again
        return run

    return decorate
