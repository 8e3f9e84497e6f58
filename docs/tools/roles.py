"""Read docstrings as they are written: cross references as Sphinx has them, doctests without a heading."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(class|meth|func|attr|data|mod|exc):`(~?)([^`]+)`")
DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Roles(griffe.Extension):
    """Turns roles into code, with the last part of the name or all of it, and fences doctests."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            text = ROLE.sub(_as_code, obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def _as_code(role: re.Match[str]) -> str:
    name = role[3].rsplit(".", 1)[-1] if role[2] else role[3]
    return f"`{name}`"
