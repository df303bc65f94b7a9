"""A program on a terminal of its own: keys are typed, and what its screen shows is read."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from types import TracebackType

import pyte

COLUMNS, ROWS, HISTORY = 100, 24, 1000
TIMEOUT = 120.0  # seconds that something may take to be seen


class Screen:
    """`longlive` with these arguments behind a pseudo-terminal, and its screen."""

    def __init__(self, *arguments: str) -> None:
        self._process, self._file = pty.fork()
        if self._process == 0:
            os.environ.update(TERM="xterm-256color")
            code = "from longlive_cli.main import app; app()"
            os.execv(sys.executable, [sys.executable, "-c", code, *arguments])
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, size)
        self._screen = pyte.HistoryScreen(COLUMNS, ROWS, history=HISTORY)
        self._stream = pyte.ByteStream(self._screen)
        self._running = True

    @property
    def rows(self) -> list[str]:
        """What can be seen, a row each, after what was scrolled away."""
        gone = ["".join(row[x].data for x in range(COLUMNS)) for row in self._screen.history.top]
        return [row.rstrip() for row in [*gone, *self._screen.display]]

    @property
    def echoes(self) -> bool:
        """Whether the terminal is as a shell leaves it: it shows keys, and hands over lines."""
        flags = termios.tcgetattr(self._file)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON and flags & termios.ISIG)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._file, keys.encode())

    def wait_for(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """The rows, once they are as they should be."""
        end = time.monotonic() + TIMEOUT
        while not seen(self.rows):
            shown = "\n".join(self.rows)
            assert self._running, f"it ended with\n{shown}"
            assert time.monotonic() < end, f"not seen in time on\n{shown}"
            self._read()
        return self.rows

    def wait(self) -> int:
        """The status that the program ends with."""
        while self._running:
            self._read()
        return self._status()

    def hang_up(self) -> int:
        """Take the terminal away, as its window does; the status that the program ends with."""
        os.close(self._file)
        self._file, self._running = -1, False
        return self._status()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process:
            self.hang_up()
        elif self._file >= 0:
            os.close(self._file)

    def _status(self) -> int:
        process, self._process = self._process, 0
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def _read(self) -> None:
        if not select.select([self._file], [], [], 0.1)[0]:
            return
        try:
            data = os.read(self._file, 65536)
        except OSError:  # on Linux, how a terminal says that nobody has it open any more
            data = b""
        self._running = bool(data)
        self._stream.feed(data)
