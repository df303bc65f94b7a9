"""Where a block and the pages that it sees stand in time. Numbers only: no tensors, no device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from longlive_core.checks import real, shown, whole


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
        self, order: Sequence[int], block: int, frames_per_page: int, offset: float = 0.0
    ) -> Places:
        """The positions of ``block``, which sees the pages in ``order``, itself among them.

        ``order`` is ``PagedKVCache.order``; ``offset`` what the shots so far have added to time.
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
        self, order: Sequence[int], block: int, frames_per_page: int, offset: float = 0.0
    ) -> Places:
        """``block * frames_per_page + 0, 1, ..``, and the offset."""
        block, frames_per_page = _checked(block, frames_per_page, offset)
        start = block * frames_per_page + offset
        return Places(own=tuple(start + frame for frame in range(frames_per_page)), keys=None)


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
        self, order: Sequence[int], block: int, frames_per_page: int, offset: float = 0.0
    ) -> Places:
        """``0, 1, ..`` over the pages seen, in order of time."""
        block, frames_per_page = _checked(block, frames_per_page, offset)
        if block not in order:
            raise ValueError(
                f"the visible pages {shown(list(order))} lack the block itself, {block}, which "
                f"gets a position, too. Pass PagedKVCache.order while the block is in progress."
            )
        rank = {page: place for place, page in enumerate(sorted(order))}

        def frames(page: int) -> tuple[float, ...]:
            start = rank[page] * frames_per_page
            return tuple(float(start + frame) for frame in range(frames_per_page))

        keys = tuple(position for page in order for position in frames(page))
        return Places(own=frames(block), keys=keys)


def _checked(block: int, frames_per_page: int, offset: float) -> tuple[int, int]:
    block = whole("a block", block, at_least=0, why="blocks are counted from 0.")
    why = "a page holds the frames of a block. Take it from the model's configuration."
    frames_per_page = whole("frames_per_page", frames_per_page, at_least=1, at_most=2**20, why=why)
    real("an offset in time", offset, why="it is added to every position. Pass 0 for none.")
    return block, frames_per_page
