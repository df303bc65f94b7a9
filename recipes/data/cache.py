"""A cache of encoded clips on disk: safetensors files, each written whole or not at all.

The index names what is whole. It is replaced after every file, so that a kill or a full disk costs
the clips of one file at most, and never one that the index names.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from torch import Tensor

from longlive_core.names import few
from longlive_models.checkpoints.disk import save_tensors
from longlive_models.documents import to_json
from longlive_recipes.data.cache_index import (
    INDEX,
    CachedClip,
    CacheIndex,
    CacheSettings,
    file_hash,
    read_index,
    require_settings,
)
from longlive_recipes.data.layouts import Skipped
from longlive_recipes.generation.file_lock import FileLock
from longlive_recipes.run_record import as_plain, replace_file

SECONDS = 60.0
"""A file is finished at least so often."""


class CacheWriter:
    """Adds clips to a cache; what an earlier run wrote is kept where its files are whole.

    Args:
        folder: of the cache, made where it is missing.
        shard_bytes: a file is finished at so many.
        clock: seconds.

    Attributes:
        index: what is on disk.
        lost: files of an earlier run that are gone or changed; their clips are encoded again.

    Raises:
        ValueError: the folder holds a cache of other settings, or another process writes to it.
    """

    def __init__(
        self,
        folder: Path,
        settings: CacheSettings,
        *,
        shard_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.settings = folder, settings
        self._shard_bytes, self._clock = shard_bytes, clock
        self._began = clock()
        self._pending: list[tuple[CachedClip, Tensor]] = []
        self._done: dict[str, str] = {}
        self.lost: tuple[str, ...] = ()
        self.index = CacheIndex(settings=settings)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = FileLock(folder)
        except ValueError as error:
            raise ValueError(
                f"another process is writing to the cache {folder}: two would replace each other's "
                f"files. Wait for it, or name another folder."
            ) from error
        try:
            if (folder / INDEX).is_file():
                self._take_over()
        except BaseException:
            self._lock.release()
            raise
        self._known = {(clip.key, clip.number) for clip in self.index.clips}

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, KeyboardInterrupt):
                self.flush()
                error.add_note(self._kept())
        finally:
            self._lock.release()

    @property
    def clips(self) -> int:
        """How many clips are on disk."""
        return len(self.index.clips)

    def have(self, key: str) -> bool:
        """Whether all clips of a source are in the cache."""
        return key in self.index.done or key in self._done

    def has_clip(self, key: str, number: int) -> bool:
        """Whether a clip of a source is in the cache."""
        return (key, number) in self._known

    def add(self, clip: CachedClip, latents: Tensor) -> None:
        """Take a clip, whose ``shard`` is set here; it is on disk after the next ``flush``."""
        self._known.add((clip.key, clip.number))
        self._pending.append((replace(clip, shard=self._next_shard()), latents))
        held = sum(one.nbytes for _, one in self._pending)
        if held >= self._shard_bytes or self._clock() - self._began >= SECONDS:
            self.flush()

    def finish(self, key: str, name: str) -> None:
        """Note that all clips of a source were added."""
        self._done[key] = name

    def forget(self, key: str) -> None:
        """Leave out the clips of a source, as of a video that turned out to be damaged."""
        self._pending = [(clip, one) for clip, one in self._pending if clip.key != key]
        kept = tuple(clip for clip in self.index.clips if clip.key != key)
        done = {other: name for other, name in self.index.done.items() if other != key}
        self.index = replace(self.index, clips=kept, done=done)
        self._known = {(other, number) for other, number in self._known if other != key}

    def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: it could not be, as on a full disk; everything before it is there, and whole.
        """
        index = replace(self.index, done={**self.index.done, **self._done})
        if self._pending:
            name = self._next_shard()
            digest = self._save(name, {clip.tensor: latents for clip, latents in self._pending})
            clips = (*index.clips, *(clip for clip, _ in self._pending))
            index = replace(index, clips=clips, shards={**index.shards, name: digest})
        self._write(index)
        self._pending, self._done, self._began = [], {}, self._clock()

    def add_prompts(self, features: Mapping[str, tuple[str, Tensor]]) -> None:
        """Write a file with features of prompts: of each, its name in the file, and the rows.

        Raises:
            OSError: it could not be written; everything before it is there, and whole.
        """
        name = self._next_shard("text")
        digest = self._save(name, dict(features.values()))
        self._write(
            replace(
                self.index,
                prompts={**self.index.prompts, **dict.fromkeys(features, name)},
                shards={**self.index.shards, name: digest},
            )
        )

    def _save(self, name: str, tensors: dict[str, Tensor]) -> str:
        """Write a file in one move; its hash."""
        new = self.folder / f"{name}.part"
        try:
            save_tensors(tensors, new)
            digest = file_hash(new)
            os.replace(new, self.folder / name)
        except OSError as error:
            self._explain(error, new)
            raise
        return digest

    def close(self, wanted: Collection[str], skipped: tuple[Skipped, ...]) -> int:
        """Write the rest, and let go of what is of none of the sources with ``wanted`` keys.

        Returns:
            How many clips were let go of.
        """
        self.flush()
        kept = tuple(clip for clip in self.index.clips if clip.key in wanted)
        left = len(self.index.clips) - len(kept)
        used = {clip.shard for clip in kept} | set(self.index.prompts.values())
        index = replace(
            self.index,
            clips=kept,
            done={key: name for key, name in self.index.done.items() if key in wanted},
            shards={name: hash for name, hash in self.index.shards.items() if name in used},
            skipped=skipped,
        )
        unused = self.index.shards.keys() - used
        self._write(index)
        for name in unused:
            (self.folder / name).unlink(missing_ok=True)
        return left

    def _next_shard(self, kind: str = "clips") -> str:
        numbers = [int(name.split("-")[1].split(".")[0]) for name in self.index.shards]
        return f"{kind}-{max(numbers, default=-1) + 1:05d}.safetensors"

    def _take_over(self) -> None:
        index = read_index(self.folder)
        require_settings(self.folder, index.settings, self.settings)
        self.lost = tuple(
            name
            for name, digest in index.shards.items()
            if not (self.folder / name).is_file() or file_hash(self.folder / name) != digest
        )
        self.index = index.without(set(self.lost))

    def _write(self, index: CacheIndex) -> None:
        file = self.folder / INDEX
        try:
            replace_file(file, to_json(as_plain(index), INDEX, indent=1) + "\n")
        except OSError as error:
            self._explain(error, file)
            raise
        self.index = index

    def _explain(self, error: OSError, new: Path) -> None:
        """Leave nothing half written, and say what is kept."""
        if new.suffix == ".part":
            new.unlink(missing_ok=True)
        error.add_note(self._kept())

    def _kept(self) -> str:
        return (
            f"{self.clips} clips are in {self.folder}, whole, and stay: the same command goes on "
            f"from there."
        )


def require_same_clips(index: CacheIndex, names: Collection[str], keys: Collection[str]) -> None:
    """Raise ValueError where a cache holds clips, and none of those that are to be in it."""
    held = {clip.source for clip in index.clips}
    if held and not held & set(names) and not {clip.key for clip in index.clips} & set(keys):
        raise ValueError(
            f"the cache holds clips of other videos ({few(sorted(held))}), and would lose all of "
            f"them: it is to hold what the folder holds. Name another cache."
        )
