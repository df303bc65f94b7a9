"""The index of a cache of encoded clips: what is in which of its files. Needs no torch."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from longlive_core.names import few
from longlive_models.documents import read_json
from longlive_models.schema import build
from longlive_recipes.data.layouts import Skipped, Source

INDEX = "index.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What every clip of a cache depends on.

    ``vae`` is the SHA-256 of its weights, ``text`` that of the text encoder's, where features of
    captions are kept; None where captions alone are.
    """

    height: int
    width: int
    fps: float
    frames_per_block: int
    temporal_factor: int
    blocks: int
    vae: str
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class CachedClip:
    """An encoded clip.

    Attributes:
        source: the name of the video or story that it is of.
        key: the hash of that one's files, times and captions.
        number: the clip's place in it, from 0.
        shard: the file that holds it, under ``tensor``, as bfloat16 [channels, frames, rows,
            columns].
        captions: of each block, without the scene-cut prefix.
        cuts: of each block, whether it begins with a cut.
    """

    source: str
    key: str
    number: int
    shard: str
    captions: tuple[str, ...]
    cuts: tuple[bool, ...]

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return len(self.captions)

    @property
    def tensor(self) -> str:
        """Its name in the shard."""
        return f"{self.key}.{self.number}"


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """What a cache holds.

    Attributes:
        clips: in the order in which they were encoded.
        done: keys of the videos and stories that are in it whole, with their names.
        shards: SHA-256 of every file.
        skipped: what was found beside them and could not be used.
        prompts: of each prompt whose features are kept, the file that holds them.
    """

    settings: CacheSettings
    clips: tuple[CachedClip, ...] = ()
    done: dict[str, str] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def without(self, shards: set[str]) -> "CacheIndex":
        """The index as if these files had never been written."""
        lost = {clip.key for clip in self.clips if clip.shard in shards}
        return replace(
            self,
            clips=tuple(clip for clip in self.clips if clip.shard not in shards),
            done={key: name for key, name in self.done.items() if key not in lost},
            shards={name: hash for name, hash in self.shards.items() if name not in shards},
            prompts={prompt: name for prompt, name in self.prompts.items() if name not in shards},
        )


def read_index(folder: Path) -> CacheIndex:
    """The index in a cache's folder.

    Raises:
        ValueError: there is none, it is of a later version, or it is no index.
    """
    file = folder / INDEX
    if not file.is_file():
        raise ValueError(
            f"{folder} is no cache of clips: it holds no {INDEX}. Name a folder that `longlive "
            f"data prepare` wrote."
        )
    values = read_json(file, "the index of a cache of clips")
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{file} has the format {values.get('format')!r}, and {FORMAT} is read here: another "
            f"version wrote it. Prepare the clips again, into another folder."
        )
    index = build(CacheIndex, values, file)
    for clip in index.clips:
        if clip.shard not in index.shards or len(clip.cuts) != clip.blocks or not clip.captions:
            raise ValueError(
                f"{file}: the clip {clip.number} of {clip.source!r} is in {clip.shard!r} with "
                f"{clip.blocks} captions and {len(clip.cuts)} cuts, which cannot be: the file was "
                f"changed. Prepare the clips again."
            )
    if lost := sorted(set(index.prompts.values()) - index.shards.keys()):
        raise ValueError(
            f"{file}: features of prompts are in {few(lost)}, which the index does not know "
            f"otherwise: the file was changed. Prepare the clips again."
        )
    for name in index.shards:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(
                f"{file} names the file {name!r}: expected the name of a file beside it. Prepare "
                f"the clips again."
            )
    return index


def changed_settings(before: CacheSettings, now: CacheSettings) -> list[str]:
    """What differs, a phrase each."""
    return [
        f"{one.name}: {vars(before)[one.name]} -> {vars(now)[one.name]}"
        for one in fields(before)
        if vars(before)[one.name] != vars(now)[one.name]
    ]


def require_settings(folder: Path, before: CacheSettings, now: CacheSettings) -> None:
    """Raise ValueError where a cache was made with other settings."""
    changed = changed_settings(before, now)
    if changed:
        raise ValueError(
            f"the cache {folder} was made with other settings ({few(changed)}): half of it would "
            f"not be like the other. Name another cache, or remove this one."
        )


def key_of(source: Source, hashes: dict[Path, str]) -> str:
    """The hash of what a source's clips depend on, their settings aside."""
    values: Any = [[hashes[shot.path], shot.caption, shot.start, shot.end] for shot in source.shots]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
