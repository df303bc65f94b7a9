"""Ctrl-C between two blocks: a run stops where its state can be written down."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Within it, the first Ctrl-C sets ``asked``; another one interrupts at once, as ever.

    Nothing changes with ``wait=False``, outside the main thread, or where interrupts are ignored.
    """

    def __init__(self, *, wait: bool) -> None:
        main = threading.current_thread() is threading.main_thread()
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self.asked = False
        self._wait = wait and main and heard

    def __enter__(self) -> "Interrupts":
        if self._wait:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._wait:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
