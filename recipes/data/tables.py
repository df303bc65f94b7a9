"""A table of clips: a JSONL or CSV file with a path, a caption, and perhaps times, a line.

JSONL: ``{"path": "a.mp4", "caption": "...", "start": 0, "end": 4}`` or, of a video with several
shots, ``{"path": "a.mp4", "shots": [{"caption": "...", "start": 0, "end": 4}, ...]}``. CSV: a first
line with the columns ``path`` and ``caption``, and perhaps ``start`` and ``end``. Paths are as from
the table's folder; times are seconds; other keys and columns are not looked at. Needs no torch.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_core.checks import real, shown
from longlive_models.documents import lines_of, parse_json, read_text

_TIME = "a shot has a start and an end in seconds. Write numbers, or leave both out."


@dataclass(frozen=True, kw_only=True)
class Row:
    """A shot as a table has it; ``end`` None is the end of the video."""

    line: int
    path: str
    caption: str
    start: float
    end: float | None


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """A line that is no shot: what it is called, and why."""

    name: str
    reason: str


def read_table(table: Path) -> Iterator[Row | BrokenRow]:
    """The shots of a table, line by line.

    Raises:
        ValueError: it cannot be read, or is a CSV without the columns.
    """
    text = read_text(table, "a table of clips")
    yield from (_csv if table.suffix.lower() == ".csv" else _jsonl)(text, table)


def _jsonl(text: str, table: Path) -> Iterator[Row | BrokenRow]:
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        where = f"{table.name}, line {number}"
        try:
            yield from _rows(parse_json(line, where), number)
        except ValueError as error:
            yield BrokenRow(name=where, reason=str(error))


def _rows(value: Any, line: int) -> list[Row]:
    """The shots of an object; all of them are looked at before the first is used."""
    if not isinstance(value, dict):
        raise ValueError(f"a line holds an object {{...}}, got {shown(value)}")
    shots = value.get("shots")
    if shots is None:
        return [_row(value, value.get("path"), line)]
    if not isinstance(shots, list) or not all(isinstance(shot, dict) for shot in shots):
        raise ValueError(f"'shots' is a list of objects {{...}}, got {shown(shots)}")
    if not shots:
        raise ValueError("'shots' is empty: there is nothing to learn from")
    return [_row(shot, value.get("path"), line) for shot in shots]


def _csv(text: str, table: Path) -> Iterator[Row | BrokenRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or ())
        missing = {"path", "caption"} - set(columns)
        if missing:
            raise ValueError(
                f"{table} has no column {sorted(missing)[0]!r}, its first line has {columns}: a "
                f"clip has a path and a caption. Name the columns there."
            )
        for row in reader:
            where = f"{table.name}, line {reader.line_num}"
            times = {name: row[name] for name in ("start", "end") if row.get(name)}
            try:
                yield _row({**times, "caption": row["caption"]}, row["path"], reader.line_num)
            except ValueError as error:
                yield BrokenRow(name=where, reason=str(error))
    except csv.Error as error:
        raise ValueError(
            f"{table} is no CSV file from line {reader.line_num} on ({error}): captions with "
            f"commas stand in double quotes. Mend it."
        ) from error


def _row(value: dict[str, Any], path: Any, line: int) -> Row:
    """A shot. Raises ValueError with what is wrong about it."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(f"'path' names the video's file, got {shown(path)}")
    caption = value.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError(f"{path}: 'caption' says what it shows, got {shown(caption)}")
    start, end = (_time(name, value.get(name)) for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{path}: a shot ends after its start, got {start or 0.0:g} to {end:g} s")
    return Row(line=line, path=path, caption=" ".join(caption.split()), start=start or 0.0, end=end)


def _time(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):  # of a CSV
        try:
            value = float(value)
        except ValueError:
            value = math.nan
    return real(f"{name!r}", value, at_least=0, why=_TIME)
