"""The snapshots of one video, within a number of bytes: from them it is forked and resumed."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longlive_models.prompts.steering import LiveSchedule
from longlive_models.stream_snapshot import StreamSnapshot

_NAME = re.compile(r"(\d{7})-(\d{7})\.snapshot")


@dataclass(frozen=True, kw_only=True, order=True)
class Kept:
    """A snapshot: ``block`` comes out next, ``begun`` is the first one that can be steered."""

    block: int
    begun: int
    path: Path
    size: int


class Shelf:
    """The snapshots in a folder.

    Over ``most_bytes`` the one goes whose neighbors are closest, so that what is left is spread
    over the video; the newest stays, as long as it fits at all.

    Args:
        folder: where they are; it need not exist.
        every: blocks between two of them.
        most_bytes: what all of them may take.
    """

    def __init__(self, folder: Path, *, every: int, most_bytes: int) -> None:
        self._folder, self._every, self._most = folder, every, most_bytes
        self._full = False
        found = folder.iterdir() if folder.is_dir() else ()
        self.kept = sorted(kept for path in found if (kept := _kept(path)) is not None)

    @property
    def size(self) -> int:
        """Bytes of all snapshots."""
        return sum(kept.size for kept in self.kept)

    def due(self, block: int) -> bool:
        """Whether a snapshot is to be taken when so many blocks are made."""
        return not self._full and block % self._every == 0

    def put(self, block: int, begun: int, write: Callable[[Path], object]) -> Kept | None:
        """Take a snapshot, written by ``write``; None if it alone is over the limit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{block:07d}-{begun:07d}.snapshot"
        write(path)
        kept = _kept(path)
        assert kept is not None
        self.kept = sorted([*(k for k in self.kept if k.path != path), kept])
        if kept.size > self._most:
            self._full = True
            self._drop(kept)
            return None
        while self.size > self._most and len(self.kept) > 1:
            self._drop(self._least_missed())
        return kept

    def before(self, block: int) -> Kept | None:
        """The newest snapshot from which ``block`` can still be changed."""
        fit = [kept for kept in self.kept if kept.begun <= block]
        return fit[-1] if fit else None

    def newest(self) -> Kept | None:
        """The newest snapshot."""
        return self.kept[-1] if self.kept else None

    def clear(self) -> None:
        """Remove all snapshots."""
        for kept in list(self.kept):
            self._drop(kept)

    def forget(self, kept: Kept) -> None:
        """Remove one snapshot, which cannot be read, say."""
        self._drop(kept)

    def _least_missed(self) -> Kept:
        blocks = [0, *(kept.block for kept in self.kept)]
        gaps = [blocks[i + 2] - blocks[i] for i in range(len(blocks) - 2)]
        return self.kept[gaps.index(min(gaps))]

    def _drop(self, kept: Kept) -> None:
        kept.path.unlink(missing_ok=True)
        self.kept = [other for other in self.kept if other != kept]


def with_events(source: Path, target: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Write a snapshot again with other events: those after it are not in it, or are others.

    Raises:
        ValueError: the file is no snapshot, or an event is past the end of its video.
    """
    saved = StreamSnapshot.load(source)
    listed = tuple(dict(event) for event in events)
    LiveSchedule(saved.plan, listed)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(saved, events=listed).save(target)


def _kept(path: Path) -> Kept | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    size = path.stat().st_size
    return Kept(block=int(match[1]), begun=int(match[2]), path=path, size=size)
