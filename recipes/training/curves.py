"""Curves as SVG inside a page: lines of numbers over steps, with axes, in the page's own colors.

A picture uses the page's CSS classes, so that it is readable on a light and on a dark page, and it
needs no script: what a point says is shown by the browser where the mouse rests on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from longlive_recipes.training.run_folder import Points

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 26, 12, 44
"""The room around the plot: for numbers, for half a number, and for the steps below."""

COLORS = 8
"""How many colors the page has; later lines are dashed in the same ones."""

MOST_POINTS, MOST_SPOTS = 600, 80
"""The most points that are drawn of a line, and of those that tell their numbers."""

SMOOTHED_FROM = 100
"""A line of so many points is drawn thin, and its moving average over it."""

LOG_FROM = 30.0
"""Values that differ by so large a factor have a logarithmic axis."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a picture.

    Attributes:
        name: what the legend calls it.
        points: steps and values, one or more.
        color: the number of its color, from 0.
    """

    name: str
    points: Points
    color: int = 0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a picture: from values to places.

    Attributes:
        low, high: the values at the ends; with ``log``, their logarithms.
        start, end: the places of the ends, in pixels.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, in pixels."""
        at = math.log10(value) if self.log else value
        share = (at - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if not self.log:
            return nice_ticks(self.low, self.high)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1.0,) if self.high - self.low > 2.5 else (1.0, 2.0, 5.0)
        marks = [factor * 10.0**decade for decade in decades for factor in factors]
        return [mark for mark in marks if self.low <= math.log10(mark) <= self.high]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number in four digits or fewer: 0.0125, 1e-05, 12.3k."""
    size = abs(value)
    if size < 9999.5:
        return f"{value:.4g}"
    for power, letter in ((1e3, "k"), (1e6, "M")):
        if size < 999.5 * power:
            return f"{value / power:.3g}{letter}"
    return f"{value:.2e}"


def picture(lines: Sequence[Line], title: str, *, noisy: bool = True) -> str:
    """One picture of lines over the number of the step, as an ``<svg>`` element.

    Args:
        noisy: measured values, of which many are smoothed, and which have a logarithmic axis if
            they differ by a large factor; no plan.
    """
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    across = _axis(0, max(steps), LEFT, WIDTH - RIGHT, log=False)
    log = noisy and min(values) > 0 and max(values) / min(values) >= LOG_FROM
    up = _axis(min(values), max(values), HEIGHT - BOTTOM, TOP, log=log)
    parts = [_grid(across, up, log)]
    parts += [_line(line, across, up, smooth=noisy) for line in lines]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def thinned(points: Points, most: int) -> Points:
    """At most ``most`` of the points, evenly, with the first and the last."""
    if len(points) <= most:
        return points
    places = [round(number * (len(points) - 1) / (most - 1)) for number in range(most)]
    return [points[place] for place in places]


def smoothed(points: Points) -> Points:
    """A centered mean over a twentieth of the points; the window is cut off at the ends."""
    half = max(1, len(points) // 40)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    means = []
    for place, (step, _) in enumerate(points):
        first, last = max(0, place - half), min(len(points), place + half + 1)
        means.append((step, (sums[last] - sums[first]) / (last - first)))
    return means


def _axis(low: float, high: float, start: float, end: float, *, log: bool) -> Axis:
    """An axis with some room beyond the values; of values that are all alike, around them."""
    if log:
        low, high = math.log10(low), math.log10(high)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-300):
        room = abs(low) * 0.1 or 1.0
    else:
        room = 0.0 if start < end else 0.06 * (high - low)
    return Axis(low=low - room, high=high + room, start=start, end=end, log=log)


def _grid(across: Axis, up: Axis, log: bool) -> str:
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">')
        parts.append(f"{short(value)}</text>")
    for value in across.ticks():
        if value >= 0 and value == int(value):
            x = across.place(value)
            parts.append(f'<text class="tick" x="{x}" y="{HEIGHT - 26}" text-anchor="middle">')
            parts.append(f"{short(value)}</text>")
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    words = "step" + (", logarithmic axis" if log else "")
    parts.append(f'<text class="tick" x="{LEFT}" y="{HEIGHT - 6}">{words}</text>')
    return "".join(parts)


def _line(line: Line, across: Axis, up: Axis, *, smooth: bool) -> str:
    color = f"line c{line.color % COLORS}" + (" again" if line.color >= COLORS else "")
    smooth = smooth and len(line.points) >= SMOOTHED_FROM
    raw = thinned(line.points, MOST_POINTS)
    parts = [f'<path class="{color}{" raw" if smooth else ""}" d="{_path(raw, across, up)}"/>']
    if smooth:
        mean = thinned(smoothed(line.points), MOST_POINTS)
        parts.append(f'<path class="{color}" d="{_path(mean, across, up)}"/>')
    shown = "dot" if len(line.points) <= MOST_SPOTS // 4 else "spot"
    for step, value in thinned(line.points, MOST_SPOTS):
        radius = 3 if shown == "dot" else 6
        parts.append(
            f'<circle class="{shown} c{line.color % COLORS}" cx="{across.place(step)}" '
            f'cy="{up.place(value)}" r="{radius}"><title>{escape(line.name)}, step {step}: '
            f"{value:.6g}</title></circle>"
        )
    return "".join(parts)


def _path(points: Points, across: Axis, up: Axis) -> str:
    return "M" + "L".join(f"{across.place(step)},{up.place(value)}" for step, value in points)
