"""Draw curves over rounds as inline SVG; the page sets the colours."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, inf, log10

HEIGHT = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34
_LEAST_SPAN = 1e-4
"""Share of a value by which others must differ to be told from it on an axis, whose numbers have six digits."""
Points = Sequence[tuple[float, float]]


def line_chart(curves: Mapping[str, Points], unit: str, marked: Sequence[float] = (), width: int = 720) -> str:
    """Draw curves over rounds, with a legend, as an ``svg`` element; return empty text where there are no points.

    Args:
        curves: points by name, in order of x.
        unit: of y.
        marked: x of vertical lines: the rounds in which the server distilled.
        width: of the drawing's coordinates; a narrow one has larger letters where it fills the same space.
    """
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    xs = [*(x for points in curves.values() for x, _ in points), *marked]
    ys = [y for points in curves.values() for _, y in points]
    ticks = nice_ticks(min(ys), max(ys), top=100 if unit.endswith("%") else inf)
    x_span, y_span = (min(xs), max(max(xs), min(xs) + 1)), (ticks[0], ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_span[0]) / (x_span[1] - x_span[0])
        up = (y - y_span[0]) / (y_span[1] - y_span[0])
        return _LEFT + across * (width - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(x_span[0], tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in nice_ticks(*x_span, most=8):
        if min(xs) <= tick <= max(xs) and tick == int(tick):
            x, _ = place(tick, y_span[0])
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    for mark in marked:
        x, _ = place(mark, y_span[0])
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
    for number, points in enumerate(curves.values()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline class="curve c{number}" points="{path}"/>')
        if len(points) == 1:
            x, y = place(*points[0])
            parts.append(f'<circle class="dot c{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    legend = "".join(f'<span class="key c{n}">{escape(name)}</span>' for n, name in enumerate(curves))
    label = escape(f"{unit} over rounds: {', '.join(curves)}")
    return (
        f'<div class="legend">{legend}</div>'
        f'<div class="scroll"><svg class="chart" style="min-width: {0.75 * width:.0f}px" '
        f'viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}'
        f'<text x="{width - _RIGHT}" y="{HEIGHT - 2}" text-anchor="end">round</text></svg></div>'
    )


def nice_ticks(low: float, high: float, most: int = 6, top: float = inf) -> list[float]:
    """Return round numbers from at or below ``low`` to at or above ``high``, at most about ``most`` of them.

    Two at least, and none above ``top``, which is infinite or round and at or above ``high``.

    >>> nice_ticks(12, 97)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    >>> nice_ticks(3, 3)[:2]
    [3.0, 3.2]
    >>> nice_ticks(100, 100, top=100)
    [99.8, 100.0]
    """
    least = _LEAST_SPAN * max(abs(low), abs(high))
    span = high - low if high - low > least else max(1.0, least)
    raw = span / (most - 1)
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    last = max(last, first + 1)
    if step * last > top:
        last = floor(top / step + 1e-9)
        first = min(first, last - 1)
    digits = 10 - floor(log10(power))
    return [round(step * tick, digits) for tick in range(first, last + 1)]
