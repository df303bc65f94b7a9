"""Which clips of a cache a run trains on, and which are held out. Needs no torch.

A run's phases have lengths in blocks. A phase trains on the first blocks of every clip that has as
many; clips that are shorter are not for it. What is held out is whole videos, so that no part of
one is trained on.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_recipes.data.cache_index import CachedClip, CacheIndex, read_index

MOST_PROMPTS = 3
"""Captions that are shown as samples of a run."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Clips by the length that they are cut to."""

    train: dict[int, tuple[CachedClip, ...]]
    fresh: dict[int, tuple[CachedClip, ...]]


def split_clips(index: CacheIndex, lengths: Collection[int], held_out: int) -> Split:
    """The clips for each length, ``held_out`` of them apart; the same ones in every run.

    Raises:
        ValueError: there are not ``held_out`` clips of a length and one more.
    """
    order = sorted(index.clips, key=lambda clip: (_drawn(clip.key), clip.number))
    fits = {n: [clip for clip in order if clip.blocks >= n] for n in sorted(lengths)}
    for length, clips in fits.items():
        if not clips:
            longest = max((clip.blocks for clip in order), default=0)
            raise ValueError(
                f"a phase trains on clips of {length} blocks, and the longest of the cache's "
                f"{len(order)} clips has {longest}: shorter ones are not filled up. Shorten it "
                f"(--set phases.N.length={longest or 1}), or prepare longer clips."
            )
    apart: set[str] = set()
    for length in sorted(fits, reverse=True):
        for clip in fits[length]:
            if sum(one.key in apart for one in fits[length]) >= held_out:
                break
            apart.add(clip.key)
    split = Split(
        train={n: tuple(c for c in clips if c.key not in apart) for n, clips in fits.items()},
        fresh={
            n: tuple(c for c in clips if c.key in apart)[:held_out] for n, clips in fits.items()
        },
    )
    for length, clips in fits.items():
        if not split.train[length] or len(split.fresh[length]) < held_out:
            videos = len({clip.key for clip in clips})
            raise ValueError(
                f"the cache has {len(clips)} clips of {length} blocks or more, of {videos} videos, "
                f"and validation_clips={held_out} are held out, each video as a whole: none would "
                f"be left to train on. Hold out fewer (--set validation_clips=1), or add videos."
            )
    return split


def fields_for(cache: Path) -> dict[str, Any]:
    """What a config of AR training has to say for a cache, as a nested mapping of plain values.

    The cache, its size and rate, the words of its captions, and some of these as samples.

    Raises:
        ValueError: there is no such cache, or its pictures are not square.
    """
    index = read_index(cache)
    require_square(index, cache)
    captions = captions_of(index)
    return {
        "data": str(cache),
        "world": {"size": index.settings.height, "fps": index.settings.fps},
        "text": {"vocab": words_of(captions)},
        "sample_prompts": captions[:MOST_PROMPTS],
    }


def require_square(index: CacheIndex, cache: Path) -> None:
    """Raise ValueError for a cache whose pictures are wider than high, or the reverse."""
    height, width = index.settings.height, index.settings.width
    if height != width:
        raise ValueError(
            f"the pictures of {cache} are {width}x{height}, and this recipe trains on square ones: "
            f"its world has one size. Prepare the clips with --size {height}x{height}."
        )


def captions_of(index: CacheIndex) -> list[str]:
    """Every caption once, in the order of the clips."""
    return list(dict.fromkeys(text for clip in index.clips for text in clip.captions))


def words_of(captions: Collection[str]) -> list[str]:
    """The words of captions, and of what stands before them at a cut, in alphabetical order."""
    from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
    from longlive_models.text.tokenizer import words

    return sorted({word for text in (SCENE_CUT_PREFIX, *captions) for word in words(text)})


def clips_by_length(split: Split) -> dict[int, int]:
    """How many clips of each length are held in memory."""
    return {n: len(split.train[n]) + len(split.fresh[n]) for n in split.train}


def _drawn(key: str) -> str:
    """Decides what is held out: a number that has to do with nothing but the clip."""
    return hashlib.sha256(f"held out {key}".encode()).hexdigest()
