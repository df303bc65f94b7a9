"""Signals that end a run: it stops where its state can be written down, and says which it was."""

import signal
import threading
from types import FrameType, TracebackType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, and a terminal that goes away."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end. Its argument is the signal's number."""


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The number of the signal behind an interrupt: Ctrl-C's, unless it says another."""
    return int(interrupt.args[0]) if isinstance(interrupt, Stopped) else int(signal.SIGINT)


def stop(number: int, frame: FrameType | None) -> None:
    """A signal handler that ends a run as Ctrl-C does."""
    raise Stopped(number)


class Stoppable:
    """Within it, the signals of ``ENDING`` raise ``Stopped``.

    Nothing changes outside the main thread; a signal that is ignored or handled stays so.
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
    """Within it, the first signal of ``ENDING`` sets ``asked``; another interrupts at once.

    Nothing changes with ``wait=False``, outside the main thread, or for a signal that does not
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
        if self.asked:
            raise Stopped(number)
        self.asked = number
