"""Keys and class paths of older versions: refused in one line, with what replaces them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from mosaic.errors import MosaicError
from mosaic.runs.yaml_files import read_yaml

Values = Mapping[str, Any]
CLASSES = {
    r"mosaic\.federation\.executors\.(?:\w+\.)*(\w+)": r"mosaic.executors.\1",
    r"mosaic\.augmentation\.Augmentation": "mosaic.data.Augmentation",
}
"""Class paths by pattern, and what each is now."""
GONE = {
    "algorithm.distillation.refreshes": (
        "set algorithm.distillation.pool_size to as many images as all pools had together"
    ),
    "algorithm.distillation.hard_sample_step": (
        "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
    ),
    "algorithm.distillation.hard_sample_weighting": "leave it out: it cost about a point",
    "algorithm.distilling_rounds": "leave it out: federation.schedule says which rounds distil",
    "algorithm.fitting": "leave it out: PrototypeHead's head is computed in closed form",
    "model.stack_experts": "leave it out: stacked experts were slower on every device that was measured",
    "executor.server_phases": (
        "leave it out; several devices for server phases: --executor SerialExecutor --trainer.devices N"
    ),
    "federation.max_failed": "set federation.faults.quorum to 1 minus it, the share of the clients that must answer",
}
"""Keys without a successor, and what to do instead."""
_WITH_FEWER = ("PrototypeHead", "DENSE", "CoBoosting")
"""Algorithms that have lost settings of their own."""
_SUFFIXES = (".yaml", ".yml")
_FITTING = ("epochs", "batch_size", "learning_rate", "average_decay")
_STACKED = ("", "c", "config", "overlay", "algorithms")
"""Options, beside positional arguments, that take whole configurations."""


def refuse_renamed(values: Values, where: str = "") -> None:
    """Refuse keys and class paths of older versions; name all of them, each with what replaces it.

    Args:
        values: a configuration of ``mosaic fit``; init arguments may stand under ``init_args`` or beside it.
        where: the file that holds it, if it is one.
    """
    algorithm = _arguments(values.get("algorithm"))
    sections = {
        "algorithm": algorithm if _class_name(values.get("algorithm")) in _WITH_FEWER else {},
        "algorithm.distillation": _arguments(algorithm.get("distillation")),
        "executor": _arguments(values.get("executor")),
        "federation": _arguments(values.get("federation")),
        "model": _arguments(values.get("model")),
    }
    lines = [*_gate(algorithm.get("gate")), *_gans(algorithm.get("generation")), *_moved_classes(values)]
    for key, advice in GONE.items():
        section, _, last = key.rpartition(".")
        lines += [f"{key} is gone: {advice}"] if last in sections[section] else []
    if lines:
        raise MosaicError(f"{where}: {'; '.join(lines)}" if where else "; ".join(lines))


def refuse_renamed_in_run(*folders: Path) -> None:
    """Refuse to go on with a run whose configuration has such keys; a damaged one is refused later."""
    for file in (folder / "config.yaml" for folder in folders):
        with suppress(OSError, ValueError, yaml.YAMLError):
            if isinstance(values := yaml.safe_load(file.read_text()), Mapping):
                refuse_renamed(values, str(file))


def read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the files and flags of a command line say, stacked.

    >>> read_arguments(["--algorithm.gate.kind=prior", "--algorithm.gate.dim", "8"])
    {'algorithm': {'gate': {'kind': 'prior', 'dim': 8}}}
    """
    total: Any = {}
    before = ""
    for argument in arguments:
        is_option = re.match("--?[a-z]", argument)
        option, equals, text = argument.partition("=") if is_option else (before, "=", argument)
        before = "" if equals else option
        if equals:
            for values in _values_of(option.lstrip("-"), text):
                total = _stacked(total, values)
    return dict(total)


def _values_of(option: str, text: str) -> Iterator[Values]:
    from jsonargparse import get_loader

    if option in _STACKED:
        for part in [text] if _is_file(text) else re.split(r"[,+]", text):
            if _is_file(part) and (option in ("c", "config") or part.endswith(_SUFFIXES)):
                content = read_yaml(Path(part))
                values: Values = {}
                with suppress(ValueError, yaml.YAMLError):
                    values = get_loader("yaml")(content) or {}
                if values.get("from_objects"):
                    raise MosaicError(
                        f"{part}: expected a configuration, got the description of Python objects, which cannot be "
                        "run: describe the run in YAML"
                    )
                yield values
        return
    value: Any = text
    with suppress(ValueError, yaml.YAMLError):  # jsonargparse will say more about it
        value = get_loader("yaml")(Path(text).read_text() if text.endswith(_SUFFIXES) and _is_file(text) else text)
    for part in reversed(option.split(".")):
        value = {part: value}
    yield value


def _is_file(text: str) -> bool:
    with suppress(OSError):  # the text may be longer than any name
        return Path(text).is_file()
    return False


def _stacked(below: Any, above: Any, key: str = "") -> Any:
    """Stack values; a section of another class replaces the one below, except the algorithm's."""
    if isinstance(below, str) and isinstance(above, Mapping):
        below = {"class_path": below}
    if isinstance(below, Mapping) and isinstance(above, str):
        above = {"class_path": above}
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if key != "algorithm" and above.get("class_path", below.get("class_path")) != below.get("class_path"):
        return above
    return {**below, **{each: _stacked(below.get(each), value, each) for each, value in above.items()}}


def _arguments(section: Any) -> dict[str, Any]:
    """Return the init arguments of a section, wherever they stand in it."""
    if not isinstance(section, Mapping):
        return {}
    beside = {key: value for key, value in section.items() if key not in ("class_path", "init_args", "dict_kwargs")}
    return dict(_stacked(beside, section.get("init_args") or {}))


def _class_name(section: Any) -> str:
    """Return the last part of a section's class path, or nothing where it has none."""
    path = section.get("class_path") if isinstance(section, Mapping) else section
    return str(path or "").rpartition(".")[2]


def _moved_classes(values: Any) -> Iterator[str]:
    if isinstance(values, Mapping | list):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _moved_classes(value)
    elif isinstance(values, str):
        for old, new in CLASSES.items():
            if found := re.fullmatch(old, values):
                yield f"class_path {values} is now {found.expand(new)}"


def _gate(gate: Any) -> Iterator[str]:
    """Say which teacher replaces a gate; settings that had no effect on its kind are left out."""
    if not isinstance(gate, Mapping):
        return
    kind, space = str(gate.get("kind", "fusion")), gate.get("space")
    trained = kind in ("residual", "transformer")
    arguments = {
        "heads_only": space == "features" and kind not in ("prototypes", "owner", "labels"),
        "fit_on_prototypes": trained and space in ("features", "crossed"),
        "probabilities": gate.get("probabilities") if kind in ("prior", "residual") else None,
        "dim": gate.get("dim") if kind == "transformer" else None,
        "fitting": {key: gate[key] for key in _FITTING if key in gate} if trained else None,
        "head": gate.get("head") if kind in ("fusion", "prototypes") else None,
    }
    given = {key: value for key, value in arguments.items() if value}
    teacher = {"class_path": f"mosaic.teachers.{kind.capitalize()}", **({"init_args": given} if given else {})}
    line = yaml.safe_dump(teacher, default_flow_style=True, sort_keys=False, width=10_000).strip()
    old = [f".{key}: {value}" for key, value in gate.items()]
    yield f"algorithm.gate{old[0] if len(old) == 1 else ''} is now algorithm.teacher: {line}"


def _gans(generation: Any) -> Iterator[str]:
    """Say how settings of GANs are written since Gaussians are the default."""
    arguments = _arguments(generation)
    kind = _class_name(generation) or "ClassGaussians"
    if not arguments or kind not in ("ClassGaussians", "Mixture"):
        return
    from mosaic.tasks.generation import GenerationSettings

    for key in arguments.keys() & GenerationSettings.__dataclass_fields__.keys():
        yield (
            f"algorithm.generation: {key} is a setting of GANs, and generators here are {kind}: write class_path: "
            f"mosaic.generation.Adversarial there, {key} under init_args, or --algorithm.generation Adversarial first"
        )
        return
