"""A bar for videos being generated: frames done, frames a second, time left."""

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class Report(Protocol):
    """What is reported for every block: a `longlive_recipes.generate.BlockReport`."""

    @property
    def frames_done(self) -> int: ...
    @property
    def frames_total(self) -> int: ...
    @property
    def frames_before(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class FrameBar:
    """The bar, on standard error; call it with every block's report. Silent where none can be seen.

    A report of a video's first block starts a new line; the bar waits, moving, until it comes.
    """

    def __init__(self, names: list[str], console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._names = iter(names)
        self._task: TaskID | None = None
        self._first: Report | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "FrameBar":
        self._progress.start()
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, report: Report) -> None:
        task = self._task if self._task is not None else self._begin()
        text = state(report, self._first)
        self._first = self._first or report
        self._progress.update(
            task, total=report.frames_total, completed=report.frames_done, state=text
        )
        if report.frames_done >= report.frames_total:
            self._task = self._first = None

    def _begin(self) -> TaskID:
        self._task = self._progress.add_task(
            next(self._names, "video"), total=None, state="loading the model"
        )
        return self._task


def state(report: Report, first: Report | None = None) -> str:
    """`29/60 frames, 7.3 frames/s, 0:04 left`; the speed since `first`, if there is one.

    The first block's seconds hold the loading of the model, so they say little about the rest.
    """
    frames, seconds = report.frames_done - report.frames_before, report.seconds
    if first is not None:
        frames, seconds = report.frames_done - first.frames_done, seconds - first.seconds
    speed = frames / seconds if seconds > 0 else 0.0
    parts = [f"{report.frames_done}/{report.frames_total} frames", f"{speed:.1f} frames/s"]
    if speed and report.frames_done < report.frames_total:
        minutes, seconds = divmod(round((report.frames_total - report.frames_done) / speed), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
