"""Progress of generated videos: a bar that moves with every step, or a line for each block."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from longlive_cli.live_view import can_draw
from longlive_cli.messages import note


class Named(Protocol):
    """What has the name of a video: a `longlive_recipes.generate.VideoJob`."""

    @property
    def name(self) -> str: ...


class Report(Protocol):
    """What is reported for every block: a `longlive_recipes.generate.BlockReport`."""

    @property
    def job(self) -> Named: ...
    @property
    def index(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def frames_done(self) -> int: ...
    @property
    def frames_total(self) -> int: ...
    @property
    def frames_before(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class Step(Protocol):
    """What is reported for every denoising step: a `longlive_models.StepReport`."""

    @property
    def block(self) -> int: ...
    @property
    def blocks(self) -> int | None: ...
    @property
    def past(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...


@dataclass
class _Pace:
    """The state of a video when its first step was done, from which the time left is estimated."""

    began: float
    done: float

    def left(self, now: float, done: float, total: int) -> float | None:
        """Seconds until the end; None before a second step says how long one takes."""
        if done <= self.done:
            return None
        return (now - self.began) / (done - self.done) * (total - done)


class FrameBar:
    """The progress of videos, on standard error; `step` and the bar itself get every report.

    Where the cursor can be moved there is a bar a video, of all steps of all its blocks, with the
    time left; elsewhere a line a block, and nothing in between.
    """

    def __init__(
        self,
        names: list[str],
        console: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        console = console or Console(stderr=True)
        self._draws = can_draw(console)
        self._waiting = names
        self._clock = clock
        self._name = ""
        self._task: TaskID | None = None
        self._pace: _Pace | None = None
        self._place = self._frames = ""
        self._first: Report | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            disable=not self._draws,
            refresh_per_second=4,
        )

    def __enter__(self) -> "FrameBar":
        self._progress.start()
        if self._waiting:
            self._begin(self._waiting[0], "loading the model")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, name: str, report: Step) -> None:
        """A denoising step of the video called `name` is done."""
        task = self._of(name)
        block = report.block - report.past  # those of a clip are not made
        done = block + (report.step + 1) / report.steps  # blocks differ in their steps
        total = None if report.blocks is None else report.blocks - report.past
        now = self._clock()
        self._pace = self._pace or _Pace(now, done)
        blocks = "" if total is None else f"/{total}"
        self._place = f"block {block + 1}{blocks}, step {report.step + 1}/{report.steps}"
        left = None if total is None else self._pace.left(now, done, total)
        parts = (self._place, self._frames, "" if left is None else f"{duration(left)} left")
        text = ", ".join(part for part in parts if part)
        self._progress.update(task, completed=done, total=total, state=text)

    def __call__(self, report: Report) -> None:
        """A block of a video is in its file."""
        name = report.job.name
        task = self._of(name)
        text = state(report, self._first)
        self._frames = speed(report, self._first)
        self._first = self._first or report
        over = report.frames_done >= report.frames_total
        if self._draws:
            total = self._progress.tasks[self._progress.task_ids.index(task)].total
            self._progress.update(task, state=text)
            if over:
                self._progress.update(task, total=total or 1, completed=total or 1)
        else:
            note(f"{name}: block {report.index + 1}/{report.blocks}, {text}")
        if over:
            self._task = None

    def _of(self, name: str) -> TaskID:
        """The bar of a video; the one that waits, or a new one."""
        if self._task is None or name != self._name:
            return self._begin(name, "beginning")
        return self._task

    def _begin(self, name: str, text: str) -> TaskID:
        self._task = self._progress.add_task(name, total=None, state=text)
        self._name, self._place, self._frames = name, "", ""
        self._pace = self._first = None
        return self._task


class VideoCount:
    """How many videos of an evaluation are generated: a bar, or a line each where none is drawn."""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        console = console or Console(stderr=True)
        self._draws = can_draw(console)
        self._clock = clock
        self._pace: _Pace | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            disable=not self._draws,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("loading the model", total=None, state="")

    def __enter__(self) -> "VideoCount":
        self._progress.start()
        if not self._draws:
            note("loading the model")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, suite: str, done: int, total: int) -> None:
        """Of all suites, ``done`` of ``total`` videos are generated; the next is of ``suite``."""
        now = self._clock()
        self._pace = self._pace or _Pace(now, done)
        left = self._pace.left(now, done, total)
        text = f"{done}/{total} videos" + ("" if left is None else f", {duration(left)} left")
        self._progress.update(
            self._task, description=suite, completed=done, total=total, state=text
        )
        if not self._draws:
            note(f"{suite}: {text}")


def state(report: Report, first: Report | None = None) -> str:
    """`29/60 frames, 7.3 frames/s, 0:04 left`; the speed since `first`, if there is one."""
    parts = [speed(report, first)]
    rate = _rate(report, first)
    if rate and report.frames_done < report.frames_total:
        parts.append(f"{duration((report.frames_total - report.frames_done) / rate)} left")
    return ", ".join(parts)


def speed(report: Report, first: Report | None = None) -> str:
    """`29/60 frames, 7.3 frames/s`."""
    return f"{report.frames_done}/{report.frames_total} frames, {_rate(report, first):.1f} frames/s"


def duration(seconds: float) -> str:
    """`0:04`, or `1:02:03` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _rate(report: Report, first: Report | None) -> float:
    """Frames a second; the first block's seconds hold the loading, and say little of the rest."""
    frames, seconds = report.frames_done - report.frames_before, report.seconds
    if first is not None:
        frames, seconds = report.frames_done - first.frames_done, seconds - first.seconds
    return frames / seconds if seconds > 0 else 0.0
