"""What a person sees of a video that is being made: a panel that is drawn again, or plain lines.

Between two blocks the panel counts the steps of the one that is being made.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from longlive_cli.messages import plain

if TYPE_CHECKING:
    from longlive_models import StepReport
    from longlive_recipes.live import Status

LINES, METER = 8, 16
STYLES = {"sink": "bold cyan", "anchor": "bold magenta", "recent": "green"}


def can_draw(console: Console) -> bool:
    """Whether a panel can be drawn again in its place."""
    return console.is_terminal and not console.is_dumb_terminal


class Panel:
    """Drawn again eight times a second: state, prompt, window, what happened, what is typed."""

    def __init__(self, console: Console, typed: Callable[[], str]) -> None:
        self._typed = typed
        self._status: Status | None = None
        self._working = Spinner("dots", "loading the model")
        self._lines: deque[str] = deque(maxlen=LINES)
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=8)

    def tell(self, line: str) -> None:
        """Add a line to what happened."""
        with self._lock:
            self._lines.append(plain(line))

    def show(self, status: "Status") -> None:
        """A block is in the file."""
        self._status = status

    def step(self, report: "StepReport") -> None:
        """A denoising step is done."""
        self._working.update(text=working(report))

    def render(self) -> RenderableType:
        """The panel as it is now."""
        with self._lock:
            lines = list(self._lines)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        status = self._status
        table.add_row("now", self._working)
        if status is not None:
            table.add_row("video", state(status))
            table.add_row("prompt", Text(plain(status.prompt)))
            table.add_row("window", window(status))
        for line in lines:
            table.add_row("", Text(line))
        return Group(table, Text.assemble(("> ", "bold"), self._typed(), ("_", "blink")))

    def __enter__(self) -> "Panel":
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


class Lines:
    """A line for every block and every command."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.tell = write

    def show(self, status: "Status") -> None:
        """A block is in the file."""
        self.tell(f"{state(status)}, window {window(status).plain}: {status.prompt}")

    def step(self, report: "StepReport") -> None:
        """A line says that a block is made, and nothing of its steps."""

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held."""


def state(status: "Status") -> str:
    """`block 3, 10.4 of 60.0 s, 7.6 frames/s, 0.9 GB`."""
    total = "" if status.total is None else f" of {status.total:.1f}"
    speed = f", {status.speed:.1f} frames/s" if status.speed else ""
    memory = f"{status.memory / 1e9:.1f} GB"
    return f"block {status.block}, {status.seconds:.1f}{total} s{speed}, {memory}"


def working(report: "StepReport") -> str:
    """`block 4, step 5/8 [=====---]`: what is being made."""
    done = (report.step + 1) * METER // report.steps
    meter = "=" * done + "-" * (METER - done)
    return f"block {report.block}, step {report.step + 1}/{report.steps} [{meter}]"


def window(status: "Status") -> Text:
    """The pages that are held, with what each is held as where that is not being recent."""
    text = Text()
    for page, role in status.window:
        name = f"{page}" if role == "recent" else f"{page} {role}"
        text.append(f"[{name}]", STYLES[role])
    return text
