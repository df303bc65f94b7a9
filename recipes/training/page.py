"""Parts of a page that stands alone: one HTML file with its style, tables, tiles and pictures.

Nothing is fetched and no script runs, and whatever text comes from files is escaped. The page is
light or dark as its reader's system is.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from longlive_recipes.training.curves import Line, picture, short
from longlive_recipes.training.run_folder import Sheet

LONGEST_VALUE = 300
"""The most characters of a value in a table; longer ones are cut."""

_LIGHT = ("#2a78d6", "#1baf7a", "#c98500", "#4a3aa7", "#e34948", "#008300", "#d55181", "#eb6834")
_DARK = ("#4a95ec", "#1fb583", "#e0a020", "#9085e9", "#ef7070", "#35a535", "#e874a8", "#f0803f")

_RULES = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #ffffff; --ink: #1d1d1b;
  --quiet: #62625d; --rule: #e3e3df; }
@media (prefers-color-scheme: dark) { :root { --page: #161615; --card: #20201f; --ink: #f0efec;
  --quiet: #a5a49e; --rule: #3a3a37; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
p { margin: 6px 0; } .quiet { color: var(--quiet); }
.grid-of { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.grid-of.sheets { grid-template-columns: repeat(auto-fill, minmax(min(500px, 100%), 1fr)); }
.tiles { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  margin: 20px 0 0; }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 14px; margin: 0; min-width: 0; }
.tile b { display: block; font-size: 20px; line-height: 1.3; overflow-wrap: anywhere; }
.tile span { color: var(--quiet); font-size: 13px; }
figcaption { font-weight: 600; margin-bottom: 6px; overflow-wrap: anywhere; }
figcaption span { font-weight: 400; color: var(--quiet); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 14px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--quiet); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.again { stroke-dasharray: 7 5; } .raw { stroke-width: 1; opacity: .3; }
.dot { stroke: none; } .spot { fill: none; stroke: none; pointer-events: all; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 0; }
.legend svg { display: inline-block; width: 26px; height: 10px; vertical-align: middle; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; min-width: 110px; }
th { font-weight: 600; } td:first-child { color: var(--quiet); white-space: nowrap; }
img { width: 100%; height: auto; border-radius: 4px; display: block; }
"""


def _style() -> str:
    """The page's style sheet, with the colors of lines for light and for dark pages."""
    light, dark = (
        " ".join(f"--c{place}: {color};" for place, color in enumerate(colors))
        for colors in (_LIGHT, _DARK)
    )
    lines = (
        f".line.c{n} {{ stroke: var(--c{n}); }} .dot.c{n} {{ fill: var(--c{n}); }}"
        for n in range(len(_LIGHT))
    )
    return (
        f"{_RULES}:root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{chr(10).join(lines)}\n"
    )


MADE = '<meta name="generator" content="longlive">'
"""What every page of ours has near its beginning."""


def is_page(path: Path) -> bool:
    """Whether a file is a page that was made here."""
    with path.open("rb") as file:
        return MADE.encode() in file.read(400)


def page(title: str, body: Iterable[str]) -> str:
    """The whole page, as the text of an HTML file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{MADE}\n<title>{escape(title)}</title>\n<style>{_style()}</style>\n</head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body>\n</html>\n"
    )


def tiles(values: Mapping[str, str]) -> str:
    """Numbers to see first, each over its name."""
    inside = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in values.items()
    )
    return f'<div class="tiles">{"".join(inside)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts; long ones are cut."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    top = f"<thead><tr>{top}</tr></thead>" if top else ""
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(written(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="card wide"><table>{top}<tbody>{body}</tbody></table></div>'


def chart(name: str, lines: Sequence[Line], *, noisy: bool = True) -> str:
    """A picture of lines under its name; that of a single line says its last value, too."""
    last = ""
    if len(lines) == 1:
        step, value = lines[0].points[-1]
        last = f" <span>{escape(short(value))} at step {step}</span>"
    title = name.replace("_", " ")
    drawn = picture(lines, title, noisy=noisy)
    return f"<figure><figcaption>{escape(title)}{last}</figcaption>{drawn}</figure>"


def columns(parts: Iterable[str], *, wide: bool = False) -> str:
    """Pictures in columns, as many as fit; sheets of samples are ``wide``."""
    return f'<div class="grid-of{" sheets" if wide else ""}">{"".join(parts)}</div>'


def legend(lines: Sequence[Line]) -> str:
    """The names of lines, each behind its color."""
    rows = []
    for line in lines:
        kind = f"line c{line.color % len(_LIGHT)}" + (" again" if line.color >= len(_LIGHT) else "")
        mark = f'<svg viewBox="0 0 26 10"><path class="{kind}" d="M2,5L24,5"/></svg>'
        rows.append(f"<li>{mark} {escape(line.name)}</li>")
    return f'<ul class="legend">{"".join(rows)}</ul>'


def sample_sheet(sheet: Sheet, name: str, prompts: Sequence[str] = ()) -> str:
    """A sheet of samples, held in the page; a row shows a video from its beginning to its end."""
    rows = prompts if len(prompts) == len(sheet.videos) else sheet.videos
    said = f"<p class='quiet'>{escape(' · '.join(rows))}</p>" if rows else ""
    data = base64.b64encode(sheet.png).decode("ascii")
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">{said}</figure>'
    )


def written(value: object) -> str:
    """A value of a config as a table shows it."""
    if isinstance(value, list | tuple):
        value = ", ".join(written(one) for one in value)
    text = "none" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
