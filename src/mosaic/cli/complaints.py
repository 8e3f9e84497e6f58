"""Put jsonargparse's errors into one line: the key, what was expected, what was got and what may be meant."""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from mosaic.cli.removed_settings import gone
from mosaic.cli.suggestions import class_like, key_like, setting_like
from mosaic.errors import MosaicError, users_mistake
from mosaic.training.signals import Preempted

LONGEST = 800
"""Most characters of a line."""
SETTINGS = "expected settings by name, or the path of a YAML file that holds them"
"""What some keys want."""
_LONGEST_VALUE = 120
_AROUND = (
    *("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class", "Not a valid subclass"),
    *("Subclass types expect", "a class path (str)", "a dict with"),
)
"""What stands around a cause."""
_LEAVE_FOR_OTHERS = ("argparse", "jsonargparse", "_sitebuiltins")
"""Packages that exit for those who call them: parsers after help or a bad request, and ``exit()``."""
_KEY = r'Parser key "([^"]+)":'
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true, false",
    "str": "text",
    "list": "a list",
    "dict": "settings by name",
    "NoneType": "null",
}
"""What Python's types are called in YAML."""


@contextmanager
def one_line() -> Iterator[None]:
    """Raise a user's mistake, whoever complains of it, as a :class:`MosaicError` of one line.

    So is an exit of the user's own code, which would look like success.
    """
    try:
        yield
    except SystemExit as leaving:
        if (place := _left_at(leaving)) is None:
            raise
        raise MosaicError(
            f"{place} has left the program, with code {leaving.code}: raise an exception there instead"
        ) from None
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        if isinstance(mistake, MosaicError):
            mistake.args = (shortened(str(mistake)),)
            raise mistake from mistake.__cause__
        raise MosaicError(complaint(str(mistake))) from None


def _left_at(leaving: SystemExit) -> str | None:
    """Return the line of somebody's own code that has called an exit; nothing if it was a parser's or a signal's."""
    frames = [frame for frame, _ in walk_tb(leaving.__traceback__)]
    frame = [frame for frame in frames if _package(frame) not in _LEAVE_FOR_OTHERS][-1]
    if isinstance(leaving, Preempted) or _package(frame) in ("mosaic", "lightning"):
        return None
    return f"{frame.f_code.co_qualname} in {frame.f_code.co_filename}"


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def complaint(text: str) -> str:
    r"""Return the innermost key of a complaint, what was expected there and what was got; or the text on one line.

    >>> complaint("Parser key \"a\":\n X:\n  Parser key \"b.c\":\n   Expected a <class 'int'>. Got value: x")
    'a.b.c: expected a whole number, got x'
    >>> complaint("Parser key \"a\":\n - Problem with given class_path 'A':\n   arguments are required: b")
    'a: arguments are required: b'
    >>> complaint("Parser key \"a\":\n - Type X expects a class: Option 'witdh' is not accepted. Got value: N(witdh=3)")
    'a.witdh: there is no such setting'
    >>> complaint("Parser key \"a\":\n - Problem with given class_path 'A':\n   Group 'b' does not accept option 'c'")
    'a.b.c: there is no such setting'
    >>> complaint("the following arguments are required: fit.data.partition, fit.client")
    'expected a value for data.partition and client, got none: see --help'
    """
    if lacking := re.search(r"^the following arguments are required: (.*)", text):
        named = re.sub(r"\bfit\.", "", lacking[1])  # as mosaic client calls what others read of a fit
        return f"expected a value for {named.replace(', ', ' and ')}, got none: see --help"
    if option := re.search(r"^unrecognized arguments: --([\w.]+)", text):
        there_is_none = f"--{option[1]}: there is no such option"
        return gone(option[1]) or f"{there_is_none}{_meant(key_like(option[1]), '--') or ': see --help'}"
    if stray := re.search(r"^unrecognized arguments: ([^-\s]\S*)", text):
        return f"expected options, got {stray[1]}{_meant(_options_for(Path(stray[1]))) or ': see --help'}"
    if strange := re.search(r"^Subcommand '\w+' does not accept option '(.+)'", text):
        return gone(strange[1]) or f"{strange[1]}: there is no such setting{_meant(key_like(strange[1]))}"
    keys = list(dict.fromkeys(re.findall(_KEY, text)))
    if not keys:
        return shortened(_cause(text))
    key, block = ".".join(keys), _innermost(text)
    if grouped := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return _no_setting(key, f"{grouped[1]}.{grouped[2]}", text)
    if script := re.search(r"Expected a path but (\S+)\.py either not accessible", text):
        like = f"{Path(script[1]).name}.ClassName"
        return f"{key}: expected the path of a class, such as {like}, got that of a file, {script[1]}.py"
    if (module := _missing_module(text)) is not None:
        return f"{key}: there is no module {module}: {_way_to(module)}"
    if strange := re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([\w.]+)=", text):
        return _no_setting(key, strange[1] or strange[2], text)
    told = _no_class(keys[-1].rpartition(".")[2], block) or _no_settings(text) or _of_another_kind(block)
    return shortened(f"{key}: {told or _cause(block)}")


def _options_for(path: Path) -> str | None:
    """Return the options by which a command takes a configuration, or a run, that is given without any."""
    config, checkpoint = path / "config.yaml", path / "global.ckpt"  # importing RunDirectory takes seconds
    if config.is_file():
        return f"--config {config} --ckpt_path {checkpoint if checkpoint.is_file() else 'auto'}"
    return f"--config {path}" if path.suffix in (".yaml", ".yml") and path.is_file() else None


def _innermost(text: str) -> str:
    """Return what a complaint says below its last key: the lines after it that are no less indented than the first."""
    *_, after = re.split(_KEY, text)
    lines = [line for line in after.splitlines() if line.strip()]
    depth = [len(line) - len(line.lstrip()) for line in lines]
    end = next((place for place, each in enumerate(depth) if each < depth[0]), len(lines))
    return "\n".join(lines[:end])


def _value(block: str) -> str:
    """Return the first value of which a complaint says that it was given."""
    nested = re.search(r"Given value: NestedArg\(key='[^']*', val=(.*)\)", block)
    found = nested or re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: .*)?$", block, re.MULTILINE)
    value = found[1].strip("'\"") if found else "another value"
    if value == "None":
        return "null"
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]} ..."


def _no_setting(key: str, name: str, text: str) -> str:
    """Say that a class has no such setting, and which it has of a similar name."""
    classes = re.findall(r"class_path[= ]'([\w.]+)'", text.partition("Given value")[0])
    if name == "class_path":
        beside = _beside_class_path(key, text)
        old = (gone(f"{key}.{each}") for each in beside)
        told = f"{key}: expected the settings of a class under init_args, beside class_path, got "
        return next(filter(None, old), f"{told}{', '.join(beside) or 'some'} beside it")
    if (advice := gone(f"{key}.{name}", classes[-1] if classes else "")) is not None:
        return advice
    like = setting_like(name, classes[-1]) if classes else None
    return f"{key}.{name}: there is no such setting{_meant(like, f'{key}.')}"


def _beside_class_path(key: str, text: str) -> list[str]:
    """Return the settings that stand beside the class path of a key, in what was given for the outermost one."""
    found = re.findall(r"(?:Given|Got) value: (\{.*\})", text)
    inner = key.removeprefix(re.findall(_KEY, text)[0]).split(".")
    with suppress(ValueError, SyntaxError, LookupError, AttributeError):
        value = ast.literal_eval(found[-1])
        for name in filter(None, inner):
            value = value[name] if name in value else value["init_args"][name]
        return [each for each in value if each not in ("class_path", "init_args", "dict_kwargs")]
    return []


def _no_class(key: str, block: str) -> str | None:
    """Say that a name is not that of a class which a key may hold, and which may be meant."""
    if stranger := re.search(r"Expected '([\w.]+)' to be a subclass of <class '(?:[\w.]*\.)?(\w+)'>", block):
        return f"expected a subclass of {stranger[2]}, got {stranger[1]}"
    if stranger := re.search(r"does not correspond to a subclass of (\w+)", block):
        return f"expected a subclass of {stranger[1]}, got {_value(block)}"
    if "subclass spec" in block or "Not a valid subclass" in block:
        return f"expected the path of a class, or class_path and init_args, got {_value(block)}"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", block):
        path = f"{missing[1]}.{missing[2]}"
        told = f"there is no class {path}"
    elif (named := re.search(r"Expected a dot import path string: (.*)", block)) and "<class 'list'>" not in block:
        path = named[1]
        told = f"expected the path of a class, got {path}"
    else:
        return None
    return f"{told}{_meant(class_like(path, key))}"


def _meant(like: str | None, prefix: str = "") -> str:
    return f": did you mean {prefix}{like}?" if like else ""


def _no_settings(text: str) -> str | None:
    """Say that a value is no group of settings."""
    found = re.search(r"""Unable to load config ['"](.*)['"]""", text)
    return f"{SETTINGS}, got {found[1]}" if found else None


def _of_another_kind(block: str) -> str | None:
    """Say of which kind a value is to be, as YAML calls it."""
    kinds: list[str] = []
    for each, choices in re.findall(r"Expected a (?:<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[(.*)\])", block):
        kinds += [_KINDS.get(each, each)] if each else [choice.strip("'") for choice in choices.split(", ")]
    wanted = list(dict.fromkeys(kinds))
    if not wanted or wanted == ["null"]:
        return None
    *others, last = wanted
    return f"expected {', '.join(others)}{' or ' if others else ''}{last}, got {_value(block)}"


def _cause(block: str) -> str:
    """Return a complaint that is of no known kind, without what stands around it."""
    if problem := re.search(r"Problem with given class_path '[^']+':\s+(.+)", block):
        return problem[1]
    lines = [line.strip().removeprefix("- ") for line in block.splitlines()]
    told = [line for line in lines if not line.startswith(_AROUND)]
    return "; ".join(dict.fromkeys(told or lines))


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
