"""Lines from a keyboard or a pipe, read beside the work that they are for."""

import codecs
import os
import select
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

ENTER, BACKSPACE = "\r\n", "\x7f\b"
CLEAR, END, ESCAPE = "\x15", "\x04", "\x1b"  # Ctrl-U, Ctrl-D
PATIENCE = 0.5
"""Seconds that a pipe gets to hand over what is in it before the first block begins."""


class LineEditor:
    """Keys to lines. Ctrl-U clears, Ctrl-D in an empty line ends; arrows do nothing."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False
        self._escape = ""

    def feed(self, keys: str) -> list[str]:
        """The lines that these keys complete."""
        lines = []
        for key in keys:
            if self._escape or key == ESCAPE:
                self._escape = _rest_of_escape(self._escape + key)
            elif key in ENTER:
                lines.append(self.text)
                self.text = ""
            elif key in BACKSPACE:
                self.text = self.text[:-1]
            elif key == CLEAR:
                self.text = ""
            elif key == END:
                self.ended |= not self.text
            elif key.isprintable():
                self.text += key
        return lines


def _rest_of_escape(sequence: str) -> str:
    """What is still open of an escape sequence: nothing once its last letter is there."""
    if len(sequence) < 2 or (sequence[1] in "[O" and len(sequence) == 2):
        return sequence
    return (
        "" if sequence[1] not in "[O" or sequence[-1].isalpha() or sequence[-1] == "~" else sequence
    )


class Keyboard:
    """Reads a terminal key by key, without echo, on a thread; puts the terminal back at the end.

    Raises:
        ImportError: a system without ``termios``.
    """

    def __init__(
        self,
        file: int,
        editor: LineEditor,
        receive: Callable[[str], None],
        end: Callable[[], None],
    ) -> None:
        import termios

        self._file = file
        self._editor = editor
        self._receive = receive
        self._end = end
        self._before = termios.tcgetattr(file)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Keyboard":
        import tty

        tty.setcbreak(self._file)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import termios

        self._stop.set()
        self._thread.join()
        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while not (self._stop.is_set() or self._editor.ended):
            if not select.select([self._file], [], [], 0.1)[0]:
                continue
            data = os.read(self._file, 1024)
            for line in self._editor.feed(decoder.decode(data)):
                self._receive(line)
            if not data or self._editor.ended:
                self._end()
                return


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
