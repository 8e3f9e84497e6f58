"""Complaints of jsonargparse in one line: the key, and what was expected of it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from mosaic.errors import MosaicError, users_mistake

LONGEST = 800
"""Most characters of a line."""
SETTINGS = "expected settings by name, or the path of a YAML file that holds them"
"""What some keys want."""
_AROUND = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class")
"""What stands around a cause."""
_NOTHING = "Expected a <class 'NoneType'>"
_UNNAMED = {
    r"""Unable to load config ['"](.*)['"]""": SETTINGS,
    r"Not a valid subclass of \w+\. Got value: (.*)": "expected the path of a class, or class_path and init_args",
}


@contextmanager
def one_line() -> Iterator[None]:
    """Raise a user's mistake, whoever complains of it, as a :class:`MosaicError` of one line."""
    try:
        yield
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        if isinstance(mistake, MosaicError):
            mistake.args = (shortened(str(mistake)),)
            raise mistake from mistake.__cause__
        raise MosaicError(complaint(str(mistake))) from None


def complaint(text: str) -> str:
    r"""Return the innermost key of a complaint with what was expected there, or the text on one line.

    >>> complaint('Parser key "a":\n Problem with class_path:\n  Parser key "b.c":\n   Expected a float. Got value: x')
    'a.b.c: Expected a float. Got value: x'
    >>> complaint("Parser key \"a\":\n - Problem with given class_path 'A':\n   arguments are required: b")
    'a: arguments are required: b'
    >>> complaint("Parser key \"a\":\n - Type X expects a class: Option 'witdh' is not accepted. Got value: N(witdh=3)")
    "a: Option 'witdh' is not accepted"
    >>> complaint("the following arguments are required: fit.data.partition, fit.client")
    'expected a value for data.partition and client, got none: see --help'
    """
    if lacking := re.search(r"^the following arguments are required: (.*)", text):
        named = re.sub(r"\bfit\.", "", lacking[1])  # as mosaic client calls what others read of a fit
        return f"expected a value for {named.replace(', ', ' and ')}, got none: see --help"
    keys = list(dict.fromkeys(re.findall(r'Parser key "([^"]+)":', text)))
    if (module := _missing_module(text)) is not None:
        return f"{'.'.join(keys)}: there is no module {module}: {_way_to(module)}"
    if option := re.search(r"Option '[^']+' is not accepted", text):
        return f"{'.'.join(keys)}: {option[0]}"
    *_, innermost = re.split(r'Parser key "[^"]+":', text)
    causes = [line.strip().removeprefix("- ") for line in innermost.splitlines()]
    for pattern, expected in _UNNAMED.items():
        if found := re.search(pattern, text):
            return shortened(f"{'.'.join(keys)}: {expected}, got {found[1]}")
    told = [cause for cause in causes if cause.startswith("Expected ") and cause != _NOTHING]
    if told and (len(keys) > 1 or len(text) > LONGEST):
        return shortened(f"{'.'.join(keys)}: {'; '.join(dict.fromkeys(told))}")
    problem = re.search(r"Problem with given class_path '[^']+':\s+(.+)", innermost)
    if problem and not told:
        return shortened(f"{'.'.join(keys)}: {problem[1]}")
    return shortened(text)


def _missing_module(text: str) -> str | None:
    """Return the module that a complaint could not import, if that is its reason."""
    if told := re.search(r"No module named '([^']+)'", text):
        return told[1]
    classes: list[str] = re.findall(r"Expected a path but ([A-Za-z_]\w*(?:\.\w+)+) either not accessible", text)
    modules = [path.partition(".")[0] for path in classes if not path.endswith((".yaml", ".yml"))]
    return next((module for module in modules if find_spec(module) is None), None)


def _way_to(module: str) -> str:
    there = Path(f"{module}.py").is_file() or Path(module).is_dir()
    if there:
        return f"`python -m mosaic` in place of `mosaic` finds the {module} of this folder"
    return (
        "expected the path of a class that Python can import, of an installed package or, with `python -m mosaic`, here"
    )


def shortened(text: str) -> str:
    """Return a text on one line, without its middle where it is long."""
    line = " ".join(text.split())
    if len(line) > LONGEST:  # jsonargparse shows everything around what it complains of
        line = line.partition(" Given value")[0]
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def first_cause(error: Exception) -> str:
    r"""Return the cause that jsonargparse names, without the dump of everything around it.

    >>> first_cause(ValueError("Does not validate against any\nErrors:\n - Problem with class_path 'A':\n  no x"))
    "Problem with class_path 'A': no x"
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line.removeprefix("- ") for line in lines if not line.removeprefix("- ").startswith(_AROUND)] or lines[:1]
    cause = next((line for line in told if "cannot" in line or "unable" in line.lower()), "")
    given = next((line for line in lines if line.startswith("Given value: ")), "")
    return f"{cause} {given[:120]}".strip() if cause else " ".join(told[:2])
