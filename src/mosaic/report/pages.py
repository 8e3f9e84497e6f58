"""Render self-contained pages from templates, and write them without replacing anything else."""

from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mosaic.disk import write_whole
from mosaic.errors import MosaicError
from mosaic.report.summary import percent

_MARK = "<!-- mosaic report -->"
MEBIBYTE = 2**20


def render(template: str, **values: Any) -> str:
    """Return a page: a template of this package, filled with values and this package's style."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "base64": lambda png: b64encode(png).decode(),
        "class_name": class_name,
        "mebibytes": lambda count: f"{count / MEBIBYTE:.2f}",
        "percent": percent,
    }
    package = files("mosaic.report")
    style = (package / "report.css").read_text("utf-8")
    return environment.from_string((package / template).read_text("utf-8")).render(mark=_MARK, style=style, **values)


def write_page(page: str, output: Path) -> Path:
    """Write a page; an older one is replaced, and anything else is not.

    Raises:
        MosaicError: something else has this name, or nothing can be written there.
    """
    if output.exists() and not (output.is_file() and _MARK in output.read_text("utf-8", errors="replace")[:200]):
        raise MosaicError(f"{output} exists and is no report of mosaic: choose another --output")
    if output.suffix not in (".html", ".htm"):
        raise MosaicError(f"--output: expected a name that ends in .html, got {output}: a report is a web page")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, page.encode(errors="replace"))  # a folder's name may be no text
    except OSError as error:
        raise MosaicError(f"{output} cannot be written ({error.strerror}): choose another --output") from error
    return output


def class_name(section: Any) -> str:
    """Return the name of the class that a section of a configuration names."""
    return str(section["class_path"] if isinstance(section, dict) else section).rpartition(".")[2]
