"""What is seen of a live video: state, steps, window, the newest lines of what happened."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from longlive_cli.live_view import Lines, can_draw, state, window, working
from longlive_models import StepReport
from longlive_recipes.live import Status

STATUS = Status(
    block=3,
    seconds=10.44,
    total=None,
    speed=0.0,
    prompt="a blue star",
    window=((0, "sink"), (2, "anchor"), (3, "recent")),
    memory=1_250_000_000,
)


def step(number: int, of: int) -> StepReport:
    return StepReport(
        block=4,
        blocks=None,
        step=number,
        steps=of,
        timestep=1.0,
        sigma=0.1,
        latents=torch.zeros(1, 1, 1, 1, 1),
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "block 3, 10.4 s, 1.2 GB"),
        ({"total": 60.0}, "block 3, 10.4 of 60.0 s, 1.2 GB"),
        ({"speed": 7.63}, "block 3, 10.4 s, 7.6 frames/s, 1.2 GB"),
        ({"memory": 49_000_000, "speed": 0.01}, "block 3, 10.4 s, 0.0 frames/s, 0.0 GB"),
    ],
)
def test_the_state_says_what_is_known(change, text):
    assert state(replace(STATUS, **change)) == text


@pytest.mark.parametrize(
    ("number", "of", "signs"),
    [(0, 8, 2), (3, 8, 8), (7, 8, 16), (0, 1, 16), (0, 40, 0), (1, 3, 10)],
)
def test_a_meter_of_sixteen_signs_fills_with_the_steps(number, of, signs):
    meter = "=" * signs + "-" * (16 - signs)
    assert working(step(number, of)) == f"block 4, step {number + 1}/{of} [{meter}]"


def test_a_window_names_what_is_held_for_another_reason_than_being_recent():
    assert window(STATUS) == [("sink", "[0 sink]"), ("anchor", "[2 anchor]"), ("recent", "[3]")]


def test_lines_are_written_as_they_come_and_none_for_a_step():
    lines: list[str] = []
    with Lines(lines.append) as view:
        view.step(step(0, 4))
        view.show(STATUS)
        view.tell("from block 4 on")
    assert lines == [
        "block 3, 10.4 s, 1.2 GB, window [0 sink][2 anchor][3]: a blue star",
        "from block 4 on",
    ]


@pytest.mark.parametrize(
    ("terminal", "term", "draws"),
    [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)],
)
def test_a_panel_is_drawn_where_the_cursor_moves(terminal, term, draws):
    console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": term})
    assert can_draw(console) == draws
