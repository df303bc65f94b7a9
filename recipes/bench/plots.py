"""Curves as one SVG file that stands alone: pictures under their titles, and a legend."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from longlive_recipes.training.curves import COLORS, HEIGHT, WIDTH, Line, picture

_INK, _QUIET, _RULE = "#1d1d1b", "#62625d", "#e3e3df"
_LINES = ("#2a78d6", "#1baf7a", "#c98500", "#4a3aa7", "#e34948", "#008300", "#d55181", "#eb6834")
TITLE, ENTRY = 26, 18
"""How high a title and an entry of the legend are, in pixels."""


def plot(pictures: Mapping[str, Sequence[Line]], legend: Sequence[Line]) -> str:
    """An SVG file with each picture under its title, one below the other."""
    parts: list[str] = []
    top = 0
    for title, lines in pictures.items():
        parts.append(f'<text class="title" x="10" y="{top + 18}">{escape(title)}</text>')
        drawn = picture(lines, title, noisy=False)
        place = f'<svg x="0" y="{top + TITLE}" width="{WIDTH}" height="{HEIGHT}"'
        parts.append(re.sub("^<svg", place, drawn))
        top += TITLE + HEIGHT
    for number, line in enumerate(legend):
        y = top + 10 + number * ENTRY
        parts.append(f'<path class="{_kind(line)}" d="M10,{y}L36,{y}"/>')
        parts.append(f'<text x="44" y="{y + 4}">{escape(line.name)}</text>')
    height = top + 10 + len(legend) * ENTRY
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
        f"<style>{_style()}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _kind(line: Line) -> str:
    """A line's class, as pictures have it."""
    return f"line c{line.color % COLORS}" + (" again" if line.color >= COLORS else "")


def _style() -> str:
    colors = "".join(
        f".line.c{place}{{stroke:{color}}}.dot.c{place}{{fill:{color}}}"
        for place, color in enumerate(_LINES)
    )
    return (
        f"text{{font:12px sans-serif;fill:{_QUIET}}}.title{{font-weight:600;fill:{_INK}}}"
        f".grid{{stroke:{_RULE}}}.axis{{stroke:{_QUIET}}}.line{{fill:none;stroke-width:1.6}}"
        f".again{{stroke-dasharray:7 5}}.spot{{fill:none;stroke:none}}{colors}"
    )
