"""Handling of the signals that end a run, so that it stops where its state can be saved."""

import contextlib
import os
import signal
import stat
import threading
from types import FrameType, TracebackType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run: Ctrl-C, ``kill``, and the end of the terminal."""


class Stopped(KeyboardInterrupt):
    """The KeyboardInterrupt of a signal; its argument is the signal's number."""


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The number of the signal behind an interrupt; that of Ctrl-C if it names none."""
    return int(interrupt.args[0]) if isinstance(interrupt, Stopped) else int(signal.SIGINT)


def stop(number: int, frame: FrameType | None) -> None:
    """A signal handler that raises ``Stopped``, so that a run ends as it does at Ctrl-C."""
    _leave_the_terminal(number)
    raise Stopped(number)


def _leave_the_terminal(number: int) -> None:
    """Let what is printed from now on go nowhere if a signal says that the terminal is gone.

    Printing to it would fail, and what ends in order would look like an error of the system.
    """
    if number != signal.SIGHUP:
        return
    for file in (1, 2):
        with contextlib.suppress(OSError):  # it was closed before
            gone = stat.S_ISCHR(os.fstat(file).st_mode) and not os.isatty(file)
            if gone:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, file)
                os.close(nowhere)


class Stoppable:
    """A context in which the signals of ``ENDING`` raise ``Stopped``.

    It does nothing outside the main thread, or for a signal that is ignored or has a handler.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stoppable":
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = before
                    signal.signal(number, stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]


class Interrupts:
    """A context in which the first signal of ``ENDING`` sets ``asked``; a second one interrupts.

    It does nothing with ``wait=False``, outside the main thread, or for a signal that does not
    raise KeyboardInterrupt.

    Attributes:
        asked: the number of the signal that came, or 0.
    """

    def __init__(self, *, wait: bool) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.asked = 0
        self._before = {
            number: before
            for number in (ENDING if wait and main else ())
            if (before := signal.getsignal(number)) in (signal.default_int_handler, stop)
        }

    def __enter__(self) -> "Interrupts":
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        _leave_the_terminal(number)
        if self.asked:
            raise Stopped(number)
        self.asked = number
