"""A scheduler that makes blocks of several videos in turn, on one thread."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from longlive_recipes.serve.own_thread import answer

Answer = TypeVar("Answer")


class Turns(Protocol):
    """A protocol of what is made block by block."""

    def ready(self) -> bool:
        """Whether a block may be made now; called from any thread, and quick."""

    def turn(self) -> None:
        """Make one block. It raises nothing: what goes wrong is the video's own."""


class BlockScheduler:
    """Makes one block in turn for each video that is ready, and runs calls between two blocks.

    All of it happens on one thread, so that videos can share a model. A video that is not ready
    gives its turn away.
    """

    def __init__(self) -> None:
        self._ring: deque[Turns] = deque()
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="longlive-blocks", daemon=True)

    @property
    def running(self) -> bool:
        """Whether calls are still taken."""
        return not self._ending

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the block that is being made and the calls that wait; returns at the end."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def add(self, video: Turns) -> None:
        """Give a video turns."""
        with self._changed:
            self._ring.append(video)
            self._changed.notify()

    def remove(self, video: Turns) -> None:
        """Give a video no further turns; one that is being made is ended."""
        with self._changed:
            if video in self._ring:
                self._ring.remove(video)

    def wake(self) -> None:
        """Look again which videos are ready."""
        with self._changed:
            self._changed.notify()

    def call(self, function: Callable[[], Answer]) -> "Future[Answer]":
        """Run a function between two blocks; the future has its answer or its error."""
        future: Future[Answer] = Future()
        with self._changed:
            if self._ending:
                raise RuntimeError("the scheduler has been stopped")
            self._calls.append((function, future))  # type: ignore[arg-type]
            self._changed.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._calls and not self._ending and not self._next():
                    self._changed.wait()
                call = self._calls.popleft() if self._calls else None
                if call is None and self._ending:
                    return
                video = self._ring[-1] if call is None else None
            if call is not None:
                answer(*call)
            elif video is not None:
                video.turn()

    def _next(self) -> bool:
        """Move the next video that is ready to the end of the ring; False if there is none."""
        for _ in range(len(self._ring)):
            self._ring.rotate(-1)
            if self._ring[-1].ready():
                return True
        return False
