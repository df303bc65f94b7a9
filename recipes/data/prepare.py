"""Encode clips of one's own once, into a cache that training reads.

Command:  longlive data prepare FOLDER -o CACHE
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.configs.prepare_data import PrepareData
from longlive_recipes.data.cache import CacheWriter, require_same_clips
from longlive_recipes.data.cache_index import CachedClip, file_hash, key_of
from longlive_recipes.data.encoding import ClipEncoder
from longlive_recipes.data.layouts import Found, Skipped
from longlive_recipes.data.survey import Looked, Planned, Survey, survey
from longlive_recipes.data.target import find_target
from longlive_recipes.data.text_features import keep_features

Progress = Callable[[int, int, str], None]
"""Told how many of how many blocks are encoded, and the name of what comes next."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a cache holds now.

    Attributes:
        clips: all of them; ``new`` were encoded by this run, ``dropped`` are of videos or captions
            that are there no longer.
        by_blocks: how many clips there are of each length.
        skipped: what could not be used.
        bytes: of the cache's files.
        seconds: that this run took.
    """

    folder: Path
    clips: int
    new: int
    dropped: int
    by_blocks: dict[int, int]
    skipped: tuple[Skipped, ...]
    bytes: int
    seconds: float


def prepare(
    config: PrepareData,
    found: Found,
    output: Path,
    *,
    progress: Progress = lambda done, total, name: None,
    looked: Looked = lambda done, total, name: None,
    texts: Looked = lambda done, total, name: None,
) -> Prepared:
    """Encode what ``found`` lists into the cache ``output``; what is in it already is kept.

    Captions are kept as text: a text encoder that trains along reads them anew in every step. Of
    one that is frozen, its features of them are kept too.

    Args:
        progress, looked, texts: told of blocks, of videos that are looked at, and of captions.

    Raises:
        ValueError: nothing can be used, or ``output`` holds a cache of other settings or clips.
        OSError: the disk is full; what was written before stays, and the next run goes on.
    """
    began = time.monotonic()
    target = find_target(config)
    seen = survey(found, target, looked)
    device = choose_device(config.device)
    with CacheWriter(output, target.settings(), shard_bytes=config.shard_mib << 20) as cache:
        wanted, skipped = _by_key(seen)
        require_same_clips(cache.index, [one.source.name for one in wanted.values()], wanted)
        encoder: ClipEncoder | None = None
        done, total, new = 0, sum(one.blocks for one in wanted.values()), 0
        for key, one in wanted.items():
            progress(done, total, one.source.name)
            if not cache.have(key):
                encoder = encoder or ClipEncoder(target, device)
                try:
                    new += _encode(
                        cache, encoder, key, one, partial(_within, progress, done, total)
                    )
                except ValueError as error:
                    cache.forget(key)
                    skipped.append(Skipped(name=one.source.name, reason=str(error)))
            done += one.blocks
        progress(total, total, "")
        encoder = None  # makes room for the text encoder
        dropped = cache.close(wanted, tuple(skipped))
        if target.text is not None:
            keep_features(cache, partial(target.text.load, device), texts)
        index = cache.index
    return Prepared(
        folder=output,
        clips=len(index.clips),
        new=new,
        dropped=dropped,
        by_blocks=dict(sorted(Counter(clip.blocks for clip in index.clips).items())),
        skipped=index.skipped,
        bytes=sum((output / name).stat().st_size for name in index.shards),
        seconds=time.monotonic() - began,
    )


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" is a GPU where there is one. Raises ValueError for none."""
    return Runtime.choose(RuntimeOptions(device=name)).device


def _by_key(seen: Survey) -> tuple[dict[str, Planned], list[Skipped]]:
    """What is to be in the cache by its key, and what is not, the same clip twice included."""
    wanted: dict[str, Planned] = {}
    skipped = list(seen.skipped)
    for one in seen.planned:
        hashes = {shot.path: file_hash(shot.path) for shot in one.source.shots}
        key = key_of(one.source, hashes)
        if key in wanted:
            reason = f"it is {wanted[key].source.name} again: the same frames and captions"
            skipped.append(Skipped(name=one.source.name, reason=reason))
        else:
            wanted[key] = one
    return wanted, skipped


def _encode(
    cache: CacheWriter,
    encoder: ClipEncoder,
    key: str,
    one: Planned,
    progress: Callable[[int, str], None],
) -> int:
    """Put a source's clips into the cache; returns how many were encoded."""
    new = blocks = 0
    for made in encoder.clips(one.source, known=partial(cache.has_clip, key)):
        clip = CachedClip(
            source=one.source.name,
            key=key,
            number=made.number,
            shard="",
            captions=made.captions,
            cuts=made.cuts,
        )
        cache.add(clip, made.latents)
        new, blocks = new + 1, blocks + clip.blocks
        progress(min(blocks, one.blocks), one.source.name)
    cache.finish(key, one.source.name)
    return new


def _within(progress: Progress, before: int, total: int, done: int, name: str) -> None:
    progress(before + done, total, name)
