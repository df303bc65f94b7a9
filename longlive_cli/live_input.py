"""Lines from a pipe, read beside the work that they are for."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

PATIENCE = 0.5
"""Seconds that a pipe gets to hand over what is in it before the first block begins."""


class Pipe:
    """Reads a text file by lines on a thread; what is there at once is read before it starts."""

    def __init__(
        self, file: TextIO, receive: Callable[[str], None], end: Callable[[], None]
    ) -> None:
        self._file = file
        self._receive = receive
        self._end = end
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Pipe":
        self._thread.start()
        if not self._file.isatty():
            self._thread.join(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """A thread that waits for a line ends with the process."""

    def _read(self) -> None:
        for line in self._file:
            self._receive(line)
        self._end()
