"""A small vocabulary of drawings: boxes, arrows, words and images, in colours that light and dark pages bear."""

from collections.abc import Sequence
from html import escape

COLOURS = ("#1f9e89", "#e8743b", "#3f7fd6", "#9b5fc0")
"""Of four classes."""
INK = "currentColor"
STYLE = (
    ".picture{color:#24292f;font-family:system-ui,sans-serif}.picture text{fill:currentColor;font-size:13px}"
    ".picture .small{font-size:11px}.picture .strong{font-weight:600}"
    "@media (prefers-color-scheme:dark){.picture{color:#d5d9e0}}"
)


class Drawing:
    """Collects shapes, and returns them as SVG.

    Args:
        name: unique among the drawings of a page.
        width: in units of which a letter is about seven wide.
        height: likewise.
    """

    def __init__(self, name: str, width: int, height: int) -> None:
        self.name, self.width, self.height = name, width, height
        self._shapes: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write one line, centred on ``x`` unless told otherwise."""
        self._shapes.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str] = (), tint: str = INK) -> None:
        """Draw a rounded box with lines of words in its middle, the first one strong."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{tint}" '
            f'fill-opacity=".09" stroke="{tint}" stroke-opacity=".6"/>'
        )
        top = y + height / 2 + 5 - 8 * (len(lines) - 1)
        for row, words in enumerate(lines):
            self.text(x + width / 2, top + 16 * row, words, "small" if row else "strong")

    def image(self, x: float, y: float, of: int, size: float = 11, made: bool = False) -> None:
        """Draw a small image of a class; one that a generator has made has a broken edge."""
        look = 'fill-opacity=".25" stroke-dasharray="2.5 1.5"' if made else 'fill-opacity=".85"'
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" rx="2" fill="{COLOURS[of]}" '
            f'stroke="{COLOURS[of]}" {look}/>'
        )

    def images(self, x: float, y: float, classes: Sequence[int], columns: int, made: bool = False) -> None:
        """Draw images in rows."""
        for number, of in enumerate(classes):
            self.image(x + 15 * (number % columns), y + 15 * (number // columns), of, made=made)

    def bars(self, x: float, y: float, heights: Sequence[float | None], scale: float = 40) -> None:
        """Draw a bar for each class, upwards from ``y``; where there is no opinion, a dotted line."""
        for of, height in enumerate(heights):
            left = x + 12 * of
            if height is None:
                self.line([(left, y), (left + 9, y)], dashed=True)
                continue
            self._shapes.append(
                f'<rect x="{left:g}" y="{y - scale * height:g}" width="9" height="{scale * height:g}" rx="1.5" '
                f'fill="{COLOURS[of]}" fill-opacity=".85"/>'
            )

    def line(self, points: Sequence[tuple[float, float]], dashed: bool = False, arrow: bool = False) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        look = (' stroke-dasharray="4 3"' if dashed else "") + (f' marker-end="url(#{self.name}-tip)"' if arrow else "")
        self._shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-opacity=".7" stroke-width="1.4"{look}/>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw an arrow through points."""
        self.line(points, dashed, arrow=True)

    def svg(self) -> str:
        """Return the drawing."""
        tip = (
            f'<marker id="{self.name}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 .5 8 4 0 7.5z" fill="{INK}" fill-opacity=".8"/></marker>'
        )
        head = f'<svg class="picture" viewBox="0 0 {self.width} {self.height}" xmlns="http://www.w3.org/2000/svg">'
        return "\n".join([head, f"<style>{STYLE}</style><defs>{tip}</defs>", *self._shapes, "</svg>", ""])
