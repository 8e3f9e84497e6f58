"""``mosaic configs``: list the example configurations that come with the package, and copy them."""

import re
import shutil
from itertools import takewhile
from pathlib import Path
from textwrap import shorten

from mosaic.errors import MosaicError


def find_configs() -> Path:
    """Return the folder of the example configurations: in the package, or in a checkout two folders above it.

    Raises:
        MosaicError: they are in neither.
    """
    package = Path(__file__).parents[1]
    places = [folder / "configs" for folder in (package, package.parents[1])]
    for place in places:
        if (place / "digits.yaml").is_file():
            return place
    raise MosaicError(f"the example configurations are missing: expected them in {places[0]}: install mosaic anew")


def configs(copy: Path | None = None) -> str:
    """List the example configurations, each with its first sentence, or copy all of them; return what to print.

    Args:
        copy: new folder to copy them into.
    """
    source = find_configs()
    files = [*sorted(source.glob("*.yaml")), *sorted(source.glob("*/*.yaml"))]  # algorithms may be a link
    if copy is None:
        lines = [f"{file.relative_to(source)!s:38} {_meaning(file)}".rstrip() for file in files]
        return "\n".join([str(source), *lines, "", "mosaic configs --copy configs copies them into a folder of yours"])
    if copy.exists():
        raise MosaicError(f"--copy {copy}: it exists and is never overwritten: choose a new folder")
    try:
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise MosaicError(f"--copy {copy}: no folder can be made there ({error.strerror}): choose another") from error
    return f"Copied: {copy}, {len(files)} files; start with mosaic fit --config {copy / 'digits.yaml'}"


def _meaning(file: Path) -> str:
    """Return the first sentence of the comment with which a file begins, in at most 110 characters."""
    comment = takewhile(lambda line: line.startswith("#"), file.read_text("utf-8").splitlines())
    sentence = re.split(r"(?<!et al)\. ", " ".join(line.lstrip("# ") for line in comment))[0]
    return shorten(sentence.removesuffix("."), 110, placeholder=" ...")
