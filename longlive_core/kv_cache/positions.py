"""Where a block and the pages that it sees stand in time. Numbers only: no tensors, no device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from longlive_core.checks import real, shown, whole

Frames = int | Mapping[int, range]
"""Frames of a page: a number for all, or of each page which frames of the film it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Positions in time, in latent frames.

    Attributes:
        own: of the block's frames.
        keys: of the frames of every page seen, in the order in which the cache gives them; None if
            keys are cached with their positions.
    """

    own: tuple[float, ...]
    keys: tuple[float, ...] | None


@runtime_checkable
class PositionPolicy(Protocol):
    """Gives positions in time to a block, and to the past if its keys are cached without."""

    @property
    def rotated(self) -> bool:
        """Whether keys are cached with their positions: what ``CacheLayout.rotated`` must say."""

    def places(
        self, order: Sequence[int], block: int, frames_per_page: Frames, offset: float = 0.0
    ) -> Places:
        """The positions of ``block``, which sees the pages in ``order``, itself among them.

        ``order`` is ``PagedKVCache.order``; ``offset`` what the shots so far have added to time.
        ``frames_per_page`` is a number where all blocks are of one length, or else
        ``PagedKVCache.frames(tokens_per_frame)``, which says of each page which frames it holds.
        """


@dataclass(frozen=True, slots=True)
class AbsolutePositions:
    """A frame's number in the film and its shot's offset, which it keeps for good.

    A window's oldest pages grow older as the film goes on. Source: LongLive-2.0, its default.
    """

    @property
    def rotated(self) -> bool:
        """Keys are cached with their positions."""
        return True

    def places(
        self, order: Sequence[int], block: int, frames_per_page: Frames, offset: float = 0.0
    ) -> Places:
        """The numbers of the block's frames, and the offset added to each."""
        block, held = _frames_of((block,), block, frames_per_page, offset)
        start = held[block].start + offset
        return Places(own=tuple(start + frame for frame in range(len(held[block]))), keys=None)


@dataclass(frozen=True, slots=True)
class RelativePositions:
    """Places within the window: the oldest page seen starts at 0, the next follows it, and so on.

    A window looks the same however long the film is; gaps between pages, and shots' offsets, do not
    count. Keys are cached without positions and get them at each read. Source: LongLive-2.0's
    ``use_relative_rope``.
    """

    @property
    def rotated(self) -> bool:
        """Keys are cached without positions."""
        return False

    def places(
        self, order: Sequence[int], block: int, frames_per_page: Frames, offset: float = 0.0
    ) -> Places:
        """``0, 1, ..`` over the pages seen, in order of time."""
        block, held = _frames_of(order, block, frames_per_page, offset)
        if block not in order:
            raise ValueError(
                f"the visible pages {shown(list(order))} lack the block itself, {block}, which "
                f"gets a position, too. Pass PagedKVCache.order while the block is in progress."
            )
        places, start = {}, 0
        for page in sorted(order):
            places[page] = tuple(float(start + frame) for frame in range(len(held[page])))
            start += len(held[page])
        keys = tuple(position for page in order for position in places[page])
        return Places(own=places[block], keys=keys)


def _frames_of(
    order: Sequence[int], block: int, frames: Frames, offset: float
) -> tuple[int, Mapping[int, range]]:
    """The block's number, and the frames of the pages in ``order``, if all of it is sound."""
    block = whole("a block", block, at_least=0, why="blocks are counted from 0.")
    real("an offset in time", offset, why="it is added to every position. Pass 0 for none.")
    if isinstance(frames, Mapping):
        lost = [page for page in (block, *order) if page not in frames]
        if lost:
            raise ValueError(
                f"frames_per_page has pages {shown(sorted(frames))} and lacks {lost[0]}: each page "
                f"in sight has frames of its own. Pass PagedKVCache.frames(...) while the block is "
                f"in progress."
            )
        return block, frames
    why = "a page holds the frames of a block. Take it from the model's configuration."
    size = whole("frames_per_page", frames, at_least=1, at_most=2**20, why=why)
    return block, {page: range(page * size, page * size + size) for page in (block, *order)}
