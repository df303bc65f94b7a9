"""Pages of results that stand alone: tables with bars, and the videos themselves. No network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from longlive_recipes.evaluation.drift import Drift
from longlive_recipes.training import page

MOST_VIDEO_BYTES = 8 * 2**20
"""The most bytes of a video that a page holds; of larger ones, it has the name."""

MOST_VIDEOS = 12
"""The most videos that a page holds; they are chosen evenly."""

_STYLE = """<style>
main th, main td { min-width: 84px; }
.bar i { display: block; height: 4px; border-radius: 2px; background: var(--c0); min-width: 1px; }
.card + .card { margin-top: 10px; }
video { width: 100%; height: auto; border-radius: 4px; display: block; background: #000; }
td.number { font-variant-numeric: tabular-nums; }
</style>"""

Row = Mapping[str, Any]


def bars(rows: Mapping[str, Row], *, most: Mapping[str, float] | None = None) -> str:
    """A table with a bar under its numbers: each one's share of the column's largest.

    A number that stands alone in its column has none.

    Args:
        rows: values by column, by the name of the row; numbers have bars, texts have none.
        most: the number that a full bar stands for, of columns where it is known.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    full = {name: _largest(name, rows) for name in names} | dict(most or {})
    head = "".join(f"<th>{escape(_heading(name))}</th>" for name in ("", *names))
    body = []
    for title, row in rows.items():
        cells = "".join(_cell(row.get(name), full[name]) for name in names)
        body.append(f"<tr><td>{escape(title)}</td>{cells}</tr>")
    return (
        f'<div class="card wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def videos(paths: Sequence[Path]) -> str:
    """Players of mp4 files, held in the page; of others and of large ones, their names."""
    step = max(1, -(-len(paths) // MOST_VIDEOS))
    return page.columns(_player(path) for path in paths[::step])


def whole(title: str, about: str, body: Iterable[str]) -> str:
    """The whole page, as the text of an HTML file."""
    lead = [_STYLE, f"<h1>{escape(title)}</h1>", f'<p class="quiet">{escape(about)}</p>']
    return page.page(title, [*lead, *body])


def drift_page(found: Mapping[Path, Drift]) -> str:
    """The page of a suite of drift."""
    rows = {
        str(path): {
            "frames": one.frames,
            "color change": one.color_change,
            "contrast change": one.contrast_change,
            "flicker change": one.flicker_change,
            "motion ratio": one.motion_ratio,
            "edge jump": one.edge_jump,
        }
        for path, one in found.items()
    }
    parts = {
        f"{path}, {name}": {
            "red": part.color[0],
            "green": part.color[1],
            "blue": part.color[2],
            "contrast": part.contrast,
            "flicker": part.flicker,
            "motion": part.motion,
        }
        for path, one in found.items()
        for name, part in (("first", one.first), ("last", one.last))
    }
    colors = dict.fromkeys(("red", "green", "blue"), 1.0)
    body = [
        bars(rows),
        "<h2>First part and last part</h2>",
        bars(parts, most=colors),
        "<h2>Videos</h2>",
        videos(list(found)),
    ]
    about = "The last 15 % of each video against its first 15 %. An edge jump of 1 is no seam."
    return whole("Drift", about, body)


def judged_page(rows: Mapping[str, Any]) -> str:
    """The page of videos that were judged: a row a shot."""
    shots = {
        f"{path}, shot {number}": {
            name: value
            for name, value in shot.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        }
        for path, verdict in rows.items()
        for number, shot in enumerate(verdict["shots"], start=1)
    }
    share = {"steadiness": 1.0}
    body = [bars(shots, most=share), "<h2>Videos</h2>", videos([Path(path) for path in rows])]
    return whole("Verdicts", "Shape, color, background and motion, judged from pixels alone.", body)


def scores_page(result: Mapping[str, Any]) -> str:
    """The page of an evaluation of a model: a row a suite."""
    rows = {
        suite: {
            name: value
            for name, value in scores.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for suite, scores in result["suites"].items()
    }
    columns: dict[str, list[Any]] = {}
    for row in rows.values():
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    share = {
        name: 1.0
        for name, values in columns.items()
        if all(isinstance(value, float) and 0 <= value <= 1 for value in values)
    }
    about = (
        f"Model {result['model_sha256'][:12]}: {result['steps']} steps, guidance "
        f"{result['guidance']:g}."
    )
    told = ("sampler", "backends", "code", "torch", "command")
    facts = [(name, result[name]) for name in told if name in result]
    facts += list(result["hardware"].items())
    body = [bars(rows, most=share), "<h2>Machine and code</h2>", page.table((), facts)]
    return whole("Evaluation", about, body)


def bench_page(records: Sequence[Mapping[str, Any]]) -> str:
    """The page of benchmarks: for each its tables, what was checked, and on what it ran."""
    body: list[str] = []
    for record in records:
        body += [
            f"<h2>{escape(str(record['benchmark']))}</h2>",
            f"<p>{escape(record['about'])}</p>",
        ]
        for heading, rows in _parts(record).items():
            body += [f"<h3>{escape(heading)}</h3>"] if heading else []
            body.append(bars(rows))
        body.append(page.table((), _facts(record)))
    return whole("Benchmarks", "Correct first, then timed.", body)


def _parts(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, Row]]:
    """The tables of a benchmark by heading; of two models in pairs, a row an attribute."""
    if "suites" not in record:
        return record.get("parts", {"": record.get("rows", {})})
    rows = {
        f"{suite}, {_heading(attribute)}": row
        for suite, found in record["suites"].items()
        for attribute, row in found.items()
        if isinstance(row, Mapping)
    }
    return {"": rows}


def _facts(record: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What a benchmark's record says beside its tables, as far as it says it."""
    found: dict[str, object] = {"checked": record.get("checked")}
    if "hardware" in record:
        hardware = record["hardware"]
        found["where"] = hardware.get("gpu") or hardware.get("cpu") or hardware.get("machine")
    found["torch"] = record.get("versions", {}).get("torch")
    found |= {name: record.get(name) for name in ("commit", "command")}
    return [(name, value) for name, value in found.items() if value is not None]


def _largest(name: str, rows: Mapping[str, Row]) -> float:
    numbers = [abs(row[name]) for row in rows.values() if _is_number(row.get(name))]
    return max(numbers) if len(numbers) > 1 else 0.0


def _heading(name: str) -> str:
    return name.replace("_", " ").replace("olour", "olor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any, full: float) -> str:
    if not _is_number(value):
        return f"<td>{escape('' if value is None else page.written(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if not full:
        return f'<td class="number">{text}</td>'
    width = min(100.0, 100 * abs(value) / full)
    return f'<td class="bar number">{text}<i style="width: {width:.1f}%"></i></td>'


def _player(path: Path) -> str:
    name = f"<figcaption>{escape(str(path))}</figcaption>"
    if path.suffix.lower() != ".mp4" or path.stat().st_size > MOST_VIDEO_BYTES:
        return f"<figure>{name}<p class='quiet'>not held in this page</p></figure>"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure>{name}<video controls loop muted playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{data}"></video></figure>'
    )
