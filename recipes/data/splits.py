"""Which clips of a cache a run trains on, and which are held out. Needs no torch.

A run's phases have lengths in blocks. A phase trains on the first blocks of every clip that has as
many; clips that are shorter are not for it, unless they are filled up. What is held out is whole
videos, so that no part of one is trained on.
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


def split_clips(
    index: CacheIndex,
    lengths: Collection[int],
    held_out: int,
    least: int = 0,
    *,
    phases: bool = True,
) -> Split:
    """The clips for each length, ``held_out`` of them apart; the same ones in every run.

    Args:
        least: shorter clips of so many blocks or more are taken for a longer length, too; 0 takes
            none.
        phases: whether the lengths are those of a run's phases, else of its field "blocks".

    Raises:
        ValueError: there are not ``held_out`` clips of a length and one more.
    """
    order = sorted(index.clips, key=lambda clip: (_drawn(clip.key), clip.number))
    enough = {n: min(n, least or n) for n in sorted(lengths)}
    fits = {n: [clip for clip in order if clip.blocks >= enough[n]] for n in enough}
    _require_clips(order, fits, enough, phases=phases)
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
                f"the cache has {len(clips)} clips of {enough[length]} blocks or more, of {videos} "
                f"videos, and validation_clips={held_out} are held out, each video as a whole: "
                f"none would be left to train on. Hold out fewer (--set validation_clips=1), or "
                f"add videos."
            )
    return split


def _require_clips(
    order: list[CachedClip],
    fits: dict[int, list[CachedClip]],
    enough: dict[int, int],
    *,
    phases: bool,
) -> None:
    """Raise ValueError where there are no clips of some lengths; all of them are named."""
    short = [n for n, clips in fits.items() if not clips]
    if not short:
        return
    longest = max((clip.blocks for clip in order), default=0)
    named = " and ".join(map(str, short))
    has = f"the longest of the cache's {len(order)} clips has {longest}"
    if not phases:
        raise ValueError(
            f"the run trains on clips of {named} blocks, and {has}. Use --set "
            f"blocks={longest or 1}, or prepare longer clips."
        )
    trains = "a phase trains" if len(short) == 1 else "phases train"
    if enough[short[0]] < short[0]:
        raise ValueError(
            f"{trains} on clips of {named} blocks, filled up from {enough[short[0]]}, and {has}. "
            f"Lower least_blocks to {longest or 1}, or prepare longer clips."
        )
    raise ValueError(
        f"{trains} on clips of {named} blocks, and {has}. Shorten every phase to "
        f"{longest or 1} blocks at most (--set phases.N.length={longest or 1}, with N from 0), "
        f"fill short clips up (--set least_blocks=1), or prepare longer clips."
    )


def fields_for(
    cache: Path, *, start: str | None = None, reads: bool = True, learns: bool = True
) -> dict[str, Any]:
    """What a config of AR training has to say for a cache, as a nested mapping of plain values.

    The cache, its size and rate, the words of its captions, and some of these as samples.

    Args:
        start: the model that the run begins with, whose sizes and words it then has, too.
        reads: whether the run has a text encoder of its own; else features are in the cache.
        learns: whether that one is trained, and so can learn words.

    Raises:
        ValueError: there is no such cache, or no such model.
    """
    index = read_index(cache)
    captions, held = captions_of(index), index.settings
    fields: dict[str, Any] = {
        "data": str(cache),
        "world": {"size": held.height, "fps": held.fps},
        "width": None if held.width == held.height else held.width,
        "sample_prompts": captions[:MOST_PROMPTS],
    }
    if not reads:
        return fields
    if start is None:
        return {**fields, "text": {"vocab": words_of(captions)}}
    from longlive_recipes.training.start import sizes_of

    model, text = sizes_of(start)
    known = list(text["vocab"])
    new = [word for word in words_of(captions) if word not in set(known)]
    text["vocab"] = [*known, *new] if learns else known
    if not learns:
        fields["sample_prompts"] = [
            text for text in captions if not set(_words(text)) - set(known)
        ][:MOST_PROMPTS]
    return {**fields, "model": model, "text": text}


def captions_of(index: CacheIndex) -> list[str]:
    """Every caption once, in the order of the clips."""
    return list(dict.fromkeys(text for clip in index.clips for text in clip.captions))


def words_of(captions: Collection[str]) -> list[str]:
    """The words of captions, and of what stands before them at a cut, in alphabetical order."""
    from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX

    return sorted({word for text in (SCENE_CUT_PREFIX, *captions) for word in _words(text)})


def _words(text: str) -> list[str]:
    from longlive_models.text.tokenizer import words

    return words(text)


def clips_by_length(split: Split) -> dict[int, int]:
    """How many clips of each length are held in memory."""
    return {n: len(split.train[n]) + len(split.fresh[n]) for n in split.train}


def _drawn(key: str) -> str:
    """Decides what is held out: a number that has to do with nothing but the clip."""
    return hashlib.sha256(f"held out {key}".encode()).hexdigest()
