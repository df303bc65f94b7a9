"""Credit: how many blocks of a video its watchers want, which is how far it is made."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Credit:
    """The number of blocks that may be made for those who watch a video.

    A watcher asks for a block and, when it has it, for the next one; a video is made ``ahead``
    blocks beyond the one that is asked for. Whoever leaves while waiting takes the credit away, so
    that a video without watchers stops at once; one that reads slowly lets it pause.

    Args:
        ahead: blocks beyond the one that is asked for.
        first: blocks that may be made before anybody asks.
    """

    def __init__(self, ahead: int, first: int = 1) -> None:
        self._ahead = ahead
        self._granted = first
        self._asked: dict[object, int] = {}
        self._lock = threading.Lock()
        self._seen = time.monotonic()

    @property
    def blocks(self) -> int:
        """How many blocks of the video may be made in all."""
        with self._lock:
            return max([self._granted, *self._asked.values()])

    @property
    def watchers(self) -> int:
        """How many wait for a block now."""
        return len(self._asked)

    def idle(self) -> float:
        """Seconds since somebody last waited for a block; 0 while one does."""
        return 0.0 if self._asked else time.monotonic() - self._seen

    def grant(self, blocks: int) -> None:
        """Allow so many blocks in all, for a prompt that somebody wants to see, say."""
        with self._lock:
            self._granted = max(self._granted, blocks)

    def watched(self, block: int) -> None:
        """Note that a block was fetched, which asks for those after it."""
        self.grant(block + 1 + self._ahead)
        self._seen = time.monotonic()

    def revoke(self) -> None:
        """Take back what was granted; what others ask for stays."""
        with self._lock:
            self._granted = 0

    @contextmanager
    def watching(self) -> Iterator[Callable[[int], None]]:
        """A watcher, as long as the context lasts: a function that asks for a block by number."""
        watcher = object()

        def ask(block: int) -> None:
            with self._lock:
                self._asked[watcher] = block + 1 + self._ahead

        try:
            yield ask
        finally:
            with self._lock:
                self._asked.pop(watcher, None)
                self._seen = time.monotonic()
