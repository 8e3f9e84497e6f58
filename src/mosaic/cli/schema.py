"""``mosaic schema``: a JSON schema of the configuration, with which editors complete and check YAML."""

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from mosaic.cli.sections import MosaicParser, add_sections
from mosaic.training.silence import expected_warnings


def schema() -> str:
    """Return the JSON schema of a configuration of ``mosaic fit``, or of a part of one, as text."""
    with expected_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jsonargparse looks at every name that numpy has
        whole = _open(json.loads(sections_parser().get_completion_script("jsonschema")))
    whole["title"] = "Configuration of mosaic fit"
    whole["properties"] |= {
        "trainer": {
            "type": "object",
            "description": "settings of Lightning's Trainer for every phase",
            "properties": {name: {} for name in trainer_settings()},
            "additionalProperties": False,
        },
        "ckpt_path": {"type": ["string", "null"], "description": "auto, last, or the path of a run or of a snapshot"},
    }
    return json.dumps(whole, indent=1)


def sections_parser() -> MosaicParser:
    """Return a parser of all sections of a configuration but ``trainer``, whose types hold whatever Python has."""
    parser = MosaicParser(prog="mosaic fit", description="Run a federation.")
    parser.add_argument("--seed_everything", type=int, default=0, help="seed of everything but the partition")
    add_sections(parser, with_core=True)
    return parser


def option_strings(parser: ArgumentParser) -> list[str]:
    """Return all options of a parser."""
    return [option for action in parser._actions for option in action.option_strings]


def trainer_settings() -> list[str]:
    """Return the names of the Trainer's settings."""
    return [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]


def _open(part: Any) -> Any:
    """Let files hold parts of a configuration, and name classes that nobody knows yet.

    What jsonargparse requires may stand in another file, and arguments of factories come when they are called.
    """
    if isinstance(part, list):
        return [_open(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    kept = {key: _open(value) for key, value in part.items() if key != "required" or not isinstance(value, list)}
    if isinstance(kept.get("properties"), dict):
        kept["properties"].pop("$schema", None)
    known = sorted(_class_paths(kept.get("anyOf", ())))
    if known:
        other = {"type": "object", "properties": {"class_path": {"type": "string", "not": {"enum": known}}}}
        kept["anyOf"].append({**other, "description": "any other class, by the path from which Python imports it"})
    return kept


def _class_paths(alternatives: Any) -> Iterator[str]:
    for each in alternatives:
        path = each.get("properties", {}).get("class_path") if isinstance(each, dict) else None
        if isinstance(path, dict) and "const" in path:
            yield path["const"]
