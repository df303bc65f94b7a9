"""What a person sees of a video that is being made, in words, and as plain lines."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from longlive_models import StepReport
    from longlive_recipes.live import Status

METER = 16


def can_draw(console: Console) -> bool:
    """Whether a panel can be drawn again in its place."""
    return console.is_terminal and not console.is_dumb_terminal


class Lines:
    """A line for every block and every command."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.tell = write

    def show(self, status: "Status") -> None:
        """A block is in the file."""
        pages = "".join(page for _, page in window(status))
        self.tell(f"{state(status)}, window {pages}: {status.prompt}")

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


def window(status: "Status") -> list[tuple[str, str]]:
    """The pages that are held: what each is held as, and `[3]`, or `[0 sink]` if not as recent."""
    return [
        (role, f"[{page}]" if role == "recent" else f"[{page} {role}]")
        for page, role in status.window
    ]
