"""Lines from a pipe, read beside the work that they are for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

PATIENCE = 0.5
"""Seconds that a pipe gets to hand over what is in it before the model is loaded."""


class Pipe:
    """Reads a text file by lines, within a `with` block, on a thread of its own.

    Lines that are read before `lines_to` wait for it.

    Args:
        file: where lines come from.
        check: called with the lines that are there at once; it raises for a bad one. None does not
            wait for any, as where a person types.
    """

    def __init__(self, file: TextIO, check: Callable[[list[str]], None] | None) -> None:
        self._file = file
        self._check = check
        self._early: list[str] = []
        self._receive: Callable[[str], None] = self._early.append
        self._end: Callable[[], None] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def __enter__(self) -> "Pipe":
        thread = threading.Thread(target=self._read, daemon=True)  # a line may never come
        thread.start()
        if self._check is not None:
            thread.join(PATIENCE)
            self._check(list(self._early))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """A thread that waits for a line ends with the process."""

    @contextmanager
    def lines_to(self, receive: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
        """From here on, hand every line to `receive`, and call `end` once no more will come."""
        with self._lock:
            for line in self._early:
                receive(line)
            self._receive, self._end = receive, end
            if self._ended:
                end()
        yield

    def _read(self) -> None:
        for line in self._file:
            with self._lock:
                self._receive(line)
        with self._lock:
            self._ended = True
            if self._end is not None:
                self._end()
