"""Clips and their captions as people keep them: three layouts, one list. Opens no video.

``folder``: videos, each with a ``.txt`` of the same name beside it. ``table``: a ``.jsonl`` or
``.csv`` of paths, captions and times. ``stories``: the layout of LongLive-2.0, a folder a story
with a video and a caption a shot (arXiv 2605.18739).

What cannot be used is listed with the reason. Needs no torch.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longlive_core.checks import shown
from longlive_models.documents import read_json, read_text
from longlive_recipes.data.tables import Row, read_table

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
"""What the files of videos end in."""
TABLES = (".jsonl", ".csv")
LONGEST_CAPTION = 1 << 16
"""Bytes of a caption's file."""


@dataclass(frozen=True, kw_only=True)
class SourceShot:
    """A part of a video file with one caption; times are seconds, ``end`` None is the file's."""

    path: Path
    caption: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Shots in order, with a cut between each two; ``name`` is what messages and caches call it."""

    name: str
    shots: tuple[SourceShot, ...]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What was found and is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder or a table holds."""

    place: Path
    layout: Literal["folder", "table", "stories"]
    sources: tuple[Source, ...]
    skipped: tuple[Skipped, ...]


def find_sources(place: Path) -> Found:
    """The clips of a folder, or of a table of them, in the order of their names or lines.

    Raises:
        ValueError: there is no such folder or table, it holds no videos, or it is in two layouts.
    """
    if place.is_file():
        if place.suffix.lower() not in TABLES:
            raise ValueError(
                f"{place} is no table of clips: those end in {' or '.join(TABLES)}, with a path "
                f"and a caption a line. Name one, or the folder that the clips are in."
            )
        return _of_table(place, place)
    if not place.is_dir():
        raise ValueError(
            f"there is no folder {str(place)!r}: it was to hold clips with their captions. Check "
            f"the path."
        )
    if (place / "video").is_dir() and (place / "caption").is_dir():
        return _collect(place, "stories", _stories(place))
    tables = [f for f in sorted(place.iterdir()) if f.suffix.lower() in TABLES and f.is_file()]
    if len(tables) > 1:
        raise ValueError(
            f"{place} holds {len(tables)} tables, {tables[0].name} and {tables[1].name}: either "
            f"could be meant. Name the one that lists the clips."
        )
    if tables:
        return _of_table(place, tables[0])
    return _collect(place, "folder", _folder(place))


def _collect(
    place: Path,
    layout: Literal["folder", "table", "stories"],
    entries: Iterator[Source | Skipped],
) -> Found:
    found = list(entries)
    if not found:
        kinds = {
            "folder": f"a video ({', '.join(VIDEOS)}) with a .txt of the same name beside it",
            "table": "a line with a path and a caption",
            "stories": "video/STORY/1.mp4 with caption/STORY/1.json",
        }
        raise ValueError(f"{place} holds no clips: a clip is {kinds[layout]}. Add some.")
    return Found(
        place=place,
        layout=layout,
        sources=tuple(entry for entry in found if isinstance(entry, Source)),
        skipped=tuple(entry for entry in found if isinstance(entry, Skipped)),
    )


def _folder(place: Path) -> Iterator[Source | Skipped]:
    """Videos anywhere below a folder, each with its caption beside it."""
    stems: dict[Path, list[Path]] = defaultdict(list)
    for video in _videos(place):
        stems[video.with_suffix("")].append(video)
    for stem, videos in stems.items():
        for video in videos:
            name = str(video.relative_to(place))
            others = [other.name for other in videos if other != video]
            if others:
                reason = f"{others[0]} has the same name and would share its caption"
                yield Skipped(name=name, reason=reason)
                continue
            caption = stem.with_name(f"{stem.name}.txt")
            yield _single(name, video, caption, _caption_text)


def _stories(place: Path) -> Iterator[Source | Skipped]:
    """A folder a story: shots by number, those without one after them."""
    for folder in sorted(f for f in (place / "video").iterdir() if f.is_dir()):
        shots: list[SourceShot] = []
        videos = sorted(_videos(folder), key=_shot_order)
        stems = [video.stem for video in videos]
        for video in videos:
            name = str(video.relative_to(place / "video"))
            if stems.count(video.stem) > 1:
                reason = f"{stems.count(video.stem)} videos of its story have its name"
                yield Skipped(name=name, reason=reason)
                continue
            caption = place / "caption" / folder.name / f"{video.stem}.json"
            found = _single(name, video, caption, _caption_json)
            if isinstance(found, Skipped):
                yield found
            else:
                shots += found.shots
        if shots:
            yield Source(name=folder.name, shots=tuple(shots))
        elif not videos:
            yield Skipped(name=folder.name, reason="its folder holds no video")


def _shot_order(video: Path) -> tuple[bool, int, str]:
    number = video.stem.isascii() and video.stem.isdecimal() and len(video.stem) < 19
    return not number, int(video.stem) if number else 0, video.name


def _of_table(place: Path, table: Path) -> Found:
    """Rows of a table; those of one video with times are its shots, in the order of time."""
    rows: dict[str, list[Row]] = defaultdict(list)
    broken = []
    for row in read_table(table):
        if isinstance(row, Row):
            rows[os.path.normpath(row.path)].append(row)
        else:
            broken.append(Skipped(name=row.name, reason=row.reason))

    def entries() -> Iterator[Source | Skipped]:
        yield from broken
        for same in rows.values():
            yield from _of_rows(table, same)

    return _collect(place, "table", entries())


def _of_rows(table: Path, rows: list[Row]) -> Iterator[Source | Skipped]:
    """The shots of one video."""
    name, whole = rows[0].path, [row for row in rows if row.end is None and row.start == 0]
    if whole and len(rows) > 1:
        timed = [row for row in rows if row not in whole]
        for row in rows[1:] if not timed else whole:
            reason = f"line {row.line} names it again, and gives no start and end"
            yield Skipped(name=name, reason=reason)
        rows = timed or rows[:1]
    path = table.parent / rows[0].path
    if not path.is_file():
        yield Skipped(name=name, reason="there is no such file")
        return
    shots: list[SourceShot] = []
    for row in sorted(rows, key=lambda row: row.start):
        before = shots[-1] if shots else None
        if before is not None and (before.end is None or row.start < before.end):
            until = "the end" if before.end is None else f"{before.end:g} s"
            reason = (
                f"line {row.line} begins at {row.start:g} s, within a shot that lasts to {until}"
            )
            yield Skipped(name=name, reason=reason)
            continue
        shots.append(SourceShot(path=path, caption=row.caption, start=row.start, end=row.end))
    yield Source(name=name, shots=tuple(shots))


def _single(name: str, video: Path, caption: Path, read: Callable[[Path], str]) -> Source | Skipped:
    """A video and its caption's file."""
    if not caption.is_file():
        return Skipped(name=name, reason=f"its caption {caption.name} is not there")
    try:
        text = " ".join(read(caption).split())
    except ValueError as error:
        return Skipped(name=name, reason=str(error))
    if not text:
        return Skipped(name=name, reason=f"its caption {caption.name} is empty")
    return Source(name=name, shots=(SourceShot(path=video, caption=text),))


def _caption_text(path: Path) -> str:
    return read_text(path, "a caption", LONGEST_CAPTION)


def _caption_json(path: Path) -> str:
    caption = read_json(path, "a caption").get("caption")
    if not isinstance(caption, str):
        raise ValueError(
            f"{path.name} has no text under the key 'caption', got {shown(caption)}: it says what "
            f"the shot shows."
        )
    return caption


def _videos(place: Path) -> list[Path]:
    """Videos anywhere below a folder, hidden ones left out, in the order of their names."""
    return sorted(
        file
        for file in place.rglob("*")
        if file.suffix.lower() in VIDEOS
        and not any(part.startswith(".") for part in file.relative_to(place).parts)
        and not file.is_dir()
    )
