"""A terminal on which a video is steered while it is made: a panel, and a line to type below it.

prompt_toolkit draws both and edits the line; what is printed meanwhile goes above them, so that
nothing writes over anything. Loads prompt_toolkit, so it is imported only for a terminal.
"""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import ColorDepth, Output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_term_environment_variable
from prompt_toolkit.widgets import TextArea

from longlive_cli.live_view import state, window, working
from longlive_cli.messages import note, plain

if TYPE_CHECKING:
    from longlive_models import StepReport
    from longlive_recipes.live import Status

REFRESH = 1 / 8
"""Seconds from one drawing of the panel to the next."""
SPINNER = "|/-\\"
STYLES = {"sink": "bold ansicyan", "anchor": "bold ansimagenta", "recent": "ansigreen"}


class Above(io.TextIOBase):
    """A file whose lines are printed above what is drawn; the last one once it is whole.

    Unlike `prompt_toolkit.patch_stdout`, it leaves the terminal's mode as it is: keys that are
    pressed while a line is printed are not lost.
    """

    def __init__(self, display: Callable[[str], None]) -> None:
        self._display = display
        self._open = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Print what whole lines there are."""
        with self._lock:
            lines, newline, self._open = (self._open + text).rpartition("\n")
            if newline:
                self._display(lines + newline)
        return len(text)


class Terminal:
    """Shows a video and reads lines for it, within a `with` block, on a thread of its own.

    Enter hands a line over, Up and Down bring back earlier ones. Ctrl-C sends the process the
    signal that it sends elsewhere, Ctrl-Z suspends, Ctrl-D in an empty line ends the input: the
    panel stays. Lines that are typed before `lines_to` wait for it.

    Args:
        source: where keys come from.
        screen: where the panel and the line are drawn, and where all that is printed goes.
    """

    def __init__(self, source: Input, screen: Output) -> None:
        self._status: Status | None = None
        self._working = "loading the model"
        self._early: list[str] = []
        self._receive: Callable[[str], None] = self._early.append
        self._end: Callable[[], None] | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._held = ExitStack()
        panel = Window(
            FormattedTextControl(self.panel),
            height=Dimension(min=0),  # a low terminal shows the line first
            wrap_lines=True,
            dont_extend_height=True,
        )
        line = TextArea(
            prompt=lambda: "" if self._ended else "> ",
            multiline=False,
            dont_extend_height=True,
            accept_handler=self._accept,
            read_only=Condition(lambda: self._ended),
        )
        self._app: Application[None] = Application(
            layout=Layout(HSplit([panel, line]), focused_element=line),
            key_bindings=self._keys(line.buffer),
            refresh_interval=REFRESH,
            input=source,
            output=screen,
        )

    def tell(self, line: str) -> None:
        """Print a line above the panel."""
        note(line)

    def show(self, status: "Status") -> None:
        """A block is in the file."""
        self._status = status

    def step(self, report: "StepReport") -> None:
        """A denoising step is done."""
        self._working = working(report)

    def panel(self) -> StyleAndTextTuples:
        """The panel as it is now: pieces of text, each with its style."""
        spinner = SPINNER[int(time.monotonic() / REFRESH) % len(SPINNER)]
        rows: dict[str, StyleAndTextTuples] = {"now": [("", f"{spinner} {self._working}")]}
        if (status := self._status) is not None:
            rows["video"] = [("", state(status))]
            rows["prompt"] = [("", plain(status.prompt))]
            rows["window"] = [(STYLES[role], text) for role, text in window(status)]
        pieces: StyleAndTextTuples = []
        for name, value in rows.items():
            pieces += [("", "\n")] if pieces else []
            pieces += [("ansibrightblack", f"{name:<8}"), *value]
        return pieces

    @contextmanager
    def lines_to(self, receive: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
        """Within it, hand every line to `receive`, and call `end` once no more will come."""
        with self._lock:
            for line in self._early:
                receive(line)
            self._receive, self._end = receive, end
            if self._ended:
                end()
        yield

    def __enter__(self) -> "Terminal":
        with ExitStack() as stack:
            thread = threading.Thread(target=self._serve, daemon=True)
            thread.start()
            stack.callback(thread.join)
            self._started.wait()
            stack.callback(self._stop)
            above = Above(self._print)
            stack.enter_context(redirect_stdout(above))
            stack.enter_context(redirect_stderr(above))
            self._held = stack.pop_all()
        self.tell("type a new prompt, or /help")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def _keys(self, buffer: Buffer) -> KeyBindings:
        """What keys do that do not edit the line."""
        keys = KeyBindings()

        @keys.add("c-c")
        def interrupt(event: KeyPressEvent) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        @keys.add("c-z")
        def suspend(event: KeyPressEvent) -> None:
            event.app.suspend_to_background()

        @keys.add("c-d", filter=Condition(lambda: not buffer.text))
        def end_of_input(event: KeyPressEvent) -> None:
            self._end_input()

        return keys

    def _accept(self, buffer: Buffer) -> bool:
        """Hand over what is in the line, several lines where it was pasted; keep none of it."""
        with self._lock:
            for line in buffer.text.splitlines():
                self._receive(line)
        return False

    def _end_input(self) -> None:
        with self._lock:
            first, self._ended = not self._ended, True
            if first and self._end is not None:
                self._end()

    def _serve(self) -> None:
        """Draw and read until `_stop`, or until the terminal goes away."""
        try:
            self._app.run(
                pre_run=self._started.set, set_exception_handler=False, handle_sigint=False
            )
        except EOFError:
            self._end_input()
        finally:
            self._started.set()

    def _stop(self) -> None:
        """Leave the panel as it is, and give the terminal back, once all is printed."""
        self._call(lambda: None if self._app.is_done else self._app.exit())

    def _print(self, text: str) -> None:
        """Print lines above the panel, from any thread."""

        def write() -> None:
            self._app.renderer.erase()
            self._app.output.write(text)
            self._app.output.flush()
            self._app.invalidate()

        self._call(write)

    def _call(self, function: Callable[[], object]) -> None:
        """Call a function on the thread that draws, in turn; without it there is no terminal."""
        if (loop := self._app.loop) is not None:
            with suppress(RuntimeError):  # the loop has just ended: the terminal went away
                loop.call_soon_threadsafe(function)


def open_terminal() -> Terminal:
    """The terminal behind standard input and standard error; its size and colors are its own."""
    file = sys.stderr.fileno()

    def size() -> Size:
        columns, rows = os.get_terminal_size(file)
        return Size(rows=rows or 24, columns=columns or 80)  # zeros: it was never told

    screen = Vt100_Output(
        sys.stderr,
        size,
        term=get_term_environment_variable(),
        default_color_depth=ColorDepth.from_env(),
        enable_cpr=False,  # the panel's place need not be known, and not every terminal says it
    )
    return Terminal(create_input(sys.stdin), screen)
