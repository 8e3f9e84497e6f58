"""Put drawings into pages instead of linking them, so that they have the page's colours in light and dark."""

import re
from html import unescape
from pathlib import Path

IMAGE = re.compile(r'<img alt="([^"]*)" src="[^"]*?pictures/(\w+\.svg)"\s*/?>')


def inline(html: str, folder: Path) -> str:
    """Replace images that are drawings of a folder by the drawings."""
    return IMAGE.sub(lambda image: _drawing(folder / image[2], unescape(image[1])), html)


def _drawing(path: Path, words: str) -> str:
    drawing = path.read_text(encoding="utf-8")
    label = words.replace('"', "&quot;")
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
