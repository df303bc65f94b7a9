"""Where videos are cut into clips of whole blocks. Integers first, frames follow.

A clip's first block has fewer frames than the later ones (29 and 32 at the usual sizes). A block
never spans two shots: what a shot has left after its last whole block is not used. See LongLive-2.0
(arXiv 2605.18739), multi-shot training data.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from longlive_models.timing import BlockTiming

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Piece(Generic[Frame]):
    """The frames of one block: the ``block``-th of clip ``clip``, out of shot ``shot``."""

    clip: int
    block: int
    shot: int
    frames: list[Frame]


def cut_blocks(
    frames: Iterable[tuple[int, Frame]], timing: BlockTiming, most: int
) -> Iterator[Piece[Frame]]:
    """The blocks of a video whose frames come with the number of their shot, in order.

    Args:
        most: blocks of a clip; the block after them begins the next clip.
    """
    first = timing.frames(1)
    later = timing.frames(2) - first
    clip, block, current = 0, 0, -1
    pending: list[Frame] = []
    for shot, frame in frames:
        if shot != current:
            current, pending = shot, []
        pending.append(frame)
        if len(pending) == (later if block else first):
            yield Piece(clip, block, shot, pending)
            pending, block = [], block + 1
            if block == most:
                clip, block = clip + 1, 0


def shots_of_clips(
    frames: Sequence[int], timing: BlockTiming, most: int
) -> tuple[tuple[int, ...], ...]:
    """Of each clip, the shot of each of its blocks, for shots of so many frames."""
    every = ((shot, None) for shot, count in enumerate(frames) for _ in range(count))
    clips: list[list[int]] = []
    for piece in cut_blocks(every, timing, most):
        if piece.block == 0:
            clips.append([])
        clips[piece.clip].append(piece.shot)
    return tuple(tuple(clip) for clip in clips)


def frames_missing(frames: Sequence[int], timing: BlockTiming, most: int) -> tuple[int, ...]:
    """For shots of so many frames, how many more each would need for one more whole block.

    0 for a shot that ends with its last block.
    """
    first = timing.frames(1)
    later = timing.frames(2) - first
    block, missing = 0, []
    for count in frames:
        left = count
        while left >= (later if block else first):
            left -= later if block else first
            block = (block + 1) % most
        missing.append((later if block else first) - left if left else 0)
    return tuple(missing)
