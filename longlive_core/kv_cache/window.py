"""Which pages a new block may attend to. Integers only: no tensors, no device.

One page holds one block of latent frames. Pages and blocks share their numbers: block ``n`` writes
page ``n``. The same policy drives the cache at inference and the teacher-forcing mask in training.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from longlive_core.checks import hold_wholes, whole


@runtime_checkable
class WindowPolicy(Protocol):
    """Which pages a block sees, and which are kept for blocks to come.

    ``shot_start`` is the page that anchors the shot the block belongs to. While a cut's own block
    is being denoised it is still the old shot's: that block sees where it comes from. A page that
    is not retained is gone: a policy may show block ``n + 1`` only its own page and pages that it
    retained at block ``n``, whether or not block ``n`` turned out to be a cut.
    """

    @property
    def capacity(self) -> int:
        """The most pages ever retained at once, the block's own included."""

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        """The pages that ``block`` attends to, ascending, its own included."""

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        """The pages to hold while ``block`` is made, ascending: what it or a later block sees."""


@runtime_checkable
class LastingPages(Protocol):
    """What a policy may say besides: which pages outlast a shot that forgets the history.

    Of a policy that does not say, none does.
    """

    @property
    def lasting(self) -> tuple[int, ...]:
        """The pages that stay when a shot forgets what was before it: the film's sinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A number of pages, spent on sinks first and on recent history with the rest.

    The film's first ``sink`` pages and the shot's first ``shot_sink`` pages stay visible; the rest
    of ``pages`` goes to the newest ones, the block's own included. With the defaults a block sees
    the film's first block, its shot's first block, the block before it, and itself: 32 latent
    frames in pages of 8. Source: LongLive-2.0 (arXiv 2605.18739), multi-shot attention sink.
    """

    pages: int = 4
    sink: int = 1
    shot_sink: int = 1

    def __post_init__(self) -> None:
        why = "it counts whole pages, and a sink of 0 keeps none. See Window."
        hold_wholes(self, "pages sink shot_sink", at_least=0, why=why)
        if self.pages <= self.sink + self.shot_sink:
            raise ValueError(
                f"Window(pages={self.pages}, sink={self.sink}, shot_sink={self.shot_sink}) leaves "
                f"no page for the block itself: the sinks take {self.sink + self.shot_sink}. "
                f"Raise pages above {self.sink + self.shot_sink}, or lower a sink."
            )

    @property
    def capacity(self) -> int:
        """The most pages ever retained at once: ``pages``, and one more for each further anchor.

        A cut makes recent pages visible that a long anchor had crowded out, so those are held too.
        """
        return self.pages + max(0, self.shot_sink - 1)

    @property
    def lasting(self) -> tuple[int, ...]:
        """The film's sinks outlast a shot that forgets."""
        return tuple(range(self.sink))

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        """The pages that ``block`` attends to, ascending, its own included."""
        sinks = self._sinks(block, shot_start)
        recent = [page for page in range(block, -1, -1) if page not in sinks]
        return tuple(sorted(sinks | set(recent[: self.pages - len(sinks)])))

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        """The pages to hold while ``block`` is made: what it sees, and what a cut would show."""
        after_a_cut = self.pages - self.sink - min(self.shot_sink, 1)
        recent = range(max(0, block + 1 - after_a_cut), block + 1)
        return tuple(sorted({*self.visible(block, shot_start), *recent}))

    def _sinks(self, block: int, shot_start: int) -> set[int]:
        block = whole("a block", block, why="blocks are counted from 0.")
        shot_start = whole("shot_start", shot_start, why="it is a page, and pages are whole.")
        if not 0 <= shot_start <= block:
            raise ValueError(
                f"block {block} cannot belong to a shot that starts at page {shot_start}: "
                f"a shot starts at an earlier page or at its own. Pass 0 for the first shot."
            )
        made = block + 1  # a sink may be longer than any film
        anchors = range(shot_start, min(shot_start + self.shot_sink, made))
        return {*range(min(self.sink, made)), *anchors}
