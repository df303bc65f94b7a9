"""A writer of snapshots, which works while the next blocks are made."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from longlive_recipes.serve.own_thread import begin

MOST_HELD = 2
"""Snapshots in memory at most: one that is being written, and one that waits."""


class SnapshotWriter:
    """Writes snapshots of all videos, one after another, in the order in which they were taken.

    A snapshot is a copy of what a model holds of its past, so no more than one waits while another
    is written: whoever takes a third one waits for room.

    Args:
        done: called after each, when its future has ended.
    """

    def __init__(self, done: Callable[[], object] = lambda: None) -> None:
        self._done = done
        self._room = threading.BoundedSemaphore(MOST_HELD)
        self._turn = threading.Lock()

    def write(self, task: Callable[[], object]) -> "Future[None]":
        """Run ``task`` once those before it have ended; waits while there is no room.

        The future has its error, if there is one.
        """
        self._room.acquire()
        future = begin(lambda: self._in_turn(task), "longlive-snapshot")
        future.add_done_callback(self._ended)
        return future

    def _in_turn(self, task: Callable[[], object]) -> None:
        with self._turn:  # no more than one waits for it, so the order is kept
            task()

    def _ended(self, future: "Future[None]") -> None:
        self._room.release()
        self._done()
