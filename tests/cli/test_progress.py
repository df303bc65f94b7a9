"""What is seen while videos are made: where it stands after every step, or a line a block."""

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from longlive_cli.progress import FrameBar, VideoCount, duration, state


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True, kw_only=True)
class Report:
    frames_done: int
    frames_total: int
    seconds: float
    frames_before: int = 0
    job: Named = Named("first")  # noqa: RUF009
    index: int = 0
    blocks: int = 2


@dataclass(frozen=True)
class Step:
    block: int
    step: int
    blocks: int | None = 2
    steps: int = 4
    past: int = 0


def report(done: int, total: int, seconds: float, **more: object) -> Report:
    return Report(frames_done=done, frames_total=total, seconds=seconds, **more)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def on_terminal(names: list[str], clock: Clock | None = None) -> tuple[FrameBar, Console]:
    terminal = Console(
        file=io.StringIO(), force_terminal=True, width=120, _environ={"TERM": "xterm"}
    )
    return FrameBar(names, terminal, clock or Clock()), terminal


def shown(bar: FrameBar) -> list[tuple[str, str, float, float | None]]:
    """Of each bar: name, text, blocks done, blocks in all."""
    return [
        (task.description, task.fields["state"], task.completed, task.total)
        for task in bar._progress.tasks
    ]


def test_frames_speed_and_time_left():
    assert state(report(30, 120, 10.0)) == "30/120 frames, 3.0 frames/s, 0:30 left"
    assert state(report(30, 3630, 10.0)) == "30/3630 frames, 3.0 frames/s, 20:00 left"
    assert state(report(60, 60, 10.0)) == "60/60 frames, 6.0 frames/s"
    assert state(report(61, 93, 14.0), report(29, 93, 10.0)) == (
        "61/93 frames, 8.0 frames/s, 0:04 left"
    )
    assert state(report(0, 60, 0.0)) == "0/60 frames, 0.0 frames/s"
    assert state(report(90, 120, 10.0, frames_before=60)) == (
        "90/120 frames, 3.0 frames/s, 0:10 left"
    ), "what an earlier run made is not this one's speed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3723, "1:02:03")],
)
def test_a_duration_is_minutes_and_hours(seconds, text):
    assert duration(seconds) == text


def test_the_bar_moves_with_every_step_of_every_block():
    clock = Clock()
    bar, _ = on_terminal(["first"], clock)
    with bar:
        assert shown(bar) == [("first", "loading the model", 0, None)]
        bar.step("first", Step(0, 0))
        assert shown(bar) == [("first", "block 1/2, step 1/4", 0.25, 2)]
        clock.now += 3
        bar.step("first", Step(0, 1))
        assert shown(bar) == [("first", "block 1/2, step 2/4, 0:18 left", 0.5, 2)]
        bar(report(29, 60, 5.0))
        assert shown(bar) == [("first", "29/60 frames, 5.8 frames/s, 0:05 left", 0.5, 2)]
        clock.now += 3
        bar.step("first", Step(1, 0))
        assert shown(bar) == [
            ("first", "block 2/2, step 1/4, 29/60 frames, 5.8 frames/s, 0:04 left", 1.25, 2)
        ]
        bar(report(60, 60, 10.0, index=1))
        assert shown(bar) == [("first", "60/60 frames, 6.2 frames/s", 2, 2)]


def test_a_video_that_goes_on_begins_in_the_middle_of_its_bar():
    clock = Clock()
    bar, _ = on_terminal(["first"], clock)
    with bar:
        bar.step("first", Step(1, 1))
        clock.now += 2
        bar.step("first", Step(1, 2))
        assert shown(bar) == [("first", "block 2/2, step 3/4, 0:02 left", 1.75, 2)]


def test_every_video_has_a_bar_of_its_own_name():
    bar, terminal = on_terminal(["first", "second"])
    with bar:
        for name in ("first", "second"):
            bar.step(name, Step(0, 0))
            bar(report(29, 60, 5.0, job=Named(name)))
            bar(report(60, 60, 10.0, job=Named(name), index=1))
        assert [line[0] for line in shown(bar)] == ["first", "second"]
    assert "first" in terminal.file.getvalue() and "second" in terminal.file.getvalue()


def test_a_name_in_brackets_is_shown_as_it_is():
    bar, terminal = on_terminal(["[red]"])
    with bar:
        bar.step("[red]", Step(0, 0))
    assert "[red]" in terminal.file.getvalue()


@pytest.mark.parametrize("term", [None, "dumb"])
def test_where_no_cursor_moves_there_is_a_line_a_block_and_nothing_else(term, capsys):
    terminal = {} if term is None else {"force_terminal": True, "_environ": {"TERM": term}}
    console = Console(file=io.StringIO(), **terminal)
    with FrameBar(["first"], console) as bar:
        for block in range(2):
            for step in range(4):
                bar.step("first", Step(block, step))
            bar(report(29 + 31 * block, 60, 5.0 * (block + 1), index=block))
    assert console.file.getvalue() == ""
    assert capsys.readouterr().err.splitlines() == [
        "first: block 1/2, 29/60 frames, 5.8 frames/s, 0:05 left",
        "first: block 2/2, 60/60 frames, 6.2 frames/s",
    ]


def test_a_stream_without_an_end_has_a_bar_without_one():
    bar, _ = on_terminal(["first"])
    with bar:
        bar.step("first", Step(2, 1, blocks=None))
        assert shown(bar) == [("first", "block 3, step 2/4", 2.5, None)]


def test_blocks_of_a_clip_are_not_counted_as_their_frames_are_not():
    bar, _ = on_terminal(["first"])
    with bar:
        bar.step("first", Step(2, 1, blocks=4, past=2))
        assert shown(bar) == [("first", "block 1/2, step 2/4", 0.5, 2)]


def test_a_block_that_is_not_the_last_leaves_the_bar_where_it_is():
    bar, _ = on_terminal(["first"])
    with bar:
        bar(report(59, 60, 5.0))
        bar.step("first", Step(1, 0))
        assert shown(bar) == [
            ("first", "block 2/2, step 1/4, 59/60 frames, 11.8 frames/s", 1.25, 2)
        ]
        bar(report(60, 60, 6.0, index=1))
        assert shown(bar) == [("first", "60/60 frames, 1.0 frames/s", 2, 2)]


def test_a_video_without_steps_has_a_full_bar_at_its_end():
    bar, _ = on_terminal(["first"])
    with bar:
        bar(report(60, 60, 5.0))
        assert shown(bar) == [("first", "60/60 frames, 12.0 frames/s", 1, 1)]


def test_a_name_that_was_not_expected_begins_a_bar_with_a_pace_of_its_own():
    clock = Clock()
    bar, _ = on_terminal(["first"], clock)
    with bar:
        bar.step("first", Step(0, 0))
        clock.now += 50
        bar.step("second", Step(0, 0))
        clock.now += 1
        bar.step("second", Step(0, 1))
        assert shown(bar) == [
            ("first", "block 1/2, step 1/4", 0.25, 2),
            ("second", "block 1/2, step 2/4, 0:06 left", 0.5, 2),
        ]


def test_videos_of_an_evaluation_are_counted_in_one_bar():
    clock = Clock()
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    with VideoCount(terminal, clock) as bar:
        assert shown(bar) == [("loading the model", "", 0, None)]
        bar("short", 0, 6)
        assert shown(bar) == [("short", "0/6 videos", 0, 6)]
        clock.now += 10
        bar("short", 2, 6)
        assert shown(bar) == [("short", "2/6 videos, 0:20 left", 2, 6)]
        clock.now += 15
        bar("long", 5, 6)
        assert shown(bar) == [("long", "5/6 videos, 0:05 left", 5, 6)]


def test_videos_of_an_evaluation_are_a_line_each_in_a_file(capsys):
    clock, text = Clock(), io.StringIO()
    with VideoCount(Console(file=text), clock) as count:
        count("short", 0, 2)
        clock.now += 61
        count("short", 1, 2)
    assert text.getvalue() == ""
    assert capsys.readouterr().err.splitlines() == [
        "loading the model",
        "short: 0/2 videos",
        "short: 1/2 videos, 1:01 left",
    ]
