"""Plots as inline SVG: lines over linear or logarithmic axes, with a legend and marked stretches of time.

Colours and fonts come from the page's style sheet, so a plot is right in light and dark, and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from nbx.loadtest.histogram import Histogram

WIDTH, HEIGHT = 720, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 40
LEAST = 1e-3
"""Least value that a logarithmic axis tells apart: a microsecond, in milliseconds."""
LINES = 4
"""Colours that the style sheet has."""


class Line(NamedTuple):
    """One line of a plot."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    """0 to `LINES` - 1."""
    filled: bool = False
    dashed: bool = False


class Band(NamedTuple):
    """A stretch of time in which something was done to the service."""

    start: float
    end: float
    words: str


class Axis(NamedTuple):
    """One axis: where values lie on it, 0 to 1, and its ticks with their texts."""

    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]
    label: str


def linear(highest: float, label: str, lowest: float = 0.0) -> Axis:
    """Return a linear axis with about five round ticks."""
    width = max(highest - lowest, 1e-9)
    step = _round_step(width / 5)
    count = max(1, math.ceil(width / step - 1e-9))
    top = lowest + step * count if label else highest
    ticks = [(lowest + step * k, f"{lowest + step * k:,.10g}") for k in range(count + 1)]
    return Axis(lambda value: (value - lowest) / (top - lowest), ticks, label)


def logarithmic(values: Iterable[float], label: str) -> Axis:
    """Return a logarithmic axis over whole powers of ten around the positive values.

    Examples
    --------
    >>> [text for _, text in logarithmic([0.4, 20.0], "ms").ticks]
    ['0.1', '1', '10', '100']
    """
    positive = [max(value, LEAST) for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    high = max(low + 1, math.ceil(math.log10(max(positive)) - 1e-9))

    def place(value: float) -> float:
        return (math.log10(max(value, 10.0**low)) - low) / (high - low)

    return Axis(place, [(10.0**k, f"{10.0**k:,.10g}") for k in range(low, high + 1)], label)


def nines(count: int) -> Axis:
    """Return the axis of a percentile curve: every step to the right is one more nine."""
    last = max(1, min(7, math.ceil(math.log10(max(count, 10)))))
    names = ("0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %", "99.99999 %")
    return Axis(lambda x: x / last, [(float(k), names[k]) for k in range(last + 1)], "percentile of calls")


def percentile_points(histogram: Histogram) -> list[tuple[float, float]]:
    """Return the percentile curve of a histogram of microseconds, as places on `nines` and milliseconds."""
    count = histogram.count
    if not count:
        return []
    last = min(math.log10(count), 7.0)
    places = [last * k / 120 for k in range(121)]
    found = histogram.quantiles_us([1 - 10**-place for place in places[:-1]] + [1.0]) / 1000
    return list(zip(places, found.tolist(), strict=True))


def plot(title: str, lines: Sequence[Line], x: Axis, y: Axis, bands: Sequence[Band] = ()) -> Markup:
    """Draw lines.

    Parameters
    ----------
    title
        What it shows.
    lines
        In the order of the legend.
    x, y
        Axes.
    bands
        Stretches along x to mark.
    """
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: tuple[float, float]) -> str:
        across, up = (min(1.0, max(0.0, axis.place(value))) for axis, value in zip((x, y), point, strict=True))
        return f"{LEFT + across * width:.1f},{TOP + (1 - up) * height:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [_band(band, x, width, height) for band in bands]
    for value, text in y.ticks:
        line_y = TOP + (1 - y.place(value)) * height
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{line_y:.1f}" y2="{line_y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{line_y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        across = x.place(value)
        if across > 1 + 1e-9:
            continue
        anchor = "end" if across > 0.97 else "middle"
        place = f'x="{LEFT + across * width:.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text class="tick" {place} text-anchor="{anchor}">{escape(text)}</text>')
    parts.append(
        f'<text class="label" x="{LEFT + width / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x.label)}</text>'
    )
    parts.append(f'<text class="label" x="{LEFT}" y="{TOP - 14}">{escape(y.label)}</text>')
    base = TOP + height
    for line in lines:
        if not line.points:
            continue
        drawn = " ".join(at(point) for point in line.points)
        kind = f"c{line.color}{' dashed' if line.dashed else ''}"
        if line.filled:
            first, last = drawn.split(" ", 1)[0].split(",")[0], drawn.rsplit(" ", 1)[-1].split(",")[0]
            parts.append(f'<polygon class="area {kind}" points="{first},{base} {drawn} {last},{base}"/>')
        parts.append(f'<polyline class="line {kind}" points="{drawn}"/>')
    parts += _legend(lines)
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - every text in it was escaped


def _band(band: Band, x: Axis, width: float, height: float) -> str:
    start, end = (LEFT + min(1.0, max(0.0, x.place(value))) * width for value in (band.start, band.end))
    words = escape(band.words)
    size = f'x="{start:.1f}" y="{TOP}" width="{max(end - start, 2):.1f}" height="{height}"'
    return f'<rect class="band" {size}><title>{words}</title></rect>'


def _legend(lines: Sequence[Line]) -> list[str]:
    parts, right = [], WIDTH - RIGHT
    for line in reversed(lines):
        right -= 8 + round(6.3 * len(line.name))
        kind = f"c{line.color}{' dashed' if line.dashed else ''}"
        parts.append(f'<line class="line {kind}" x1="{right - 20}" x2="{right - 4}" y1="{TOP - 18}" y2="{TOP - 18}"/>')
        parts.append(f'<text class="tick" x="{right}" y="{TOP - 14}">{escape(line.name)}</text>')
        right -= 26
    return parts


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(max(step, 1e-9)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step - 1e-12)
