"""What counts as which motion: every tuned number is met by tracks a little above and below it."""

import math

import numpy as np
import pytest

from longlive_recipes.moving_shapes.judge_motion import classify_motion

FPS = 12.0
FRAMES = 48
STEPS = np.arange(FRAMES) / FPS
"""Seconds."""


def judged(
    center: np.ndarray | None = None,
    *,
    radius: np.ndarray | None = None,
    angle: np.ndarray | None = None,
    shape: str = "star",
    fps: float = FPS,
) -> str:
    """What a track is called; what is not given stands still."""
    given = next(values for values in (center, radius, angle) if values is not None)
    still = np.zeros(len(given))
    return classify_motion(
        np.full((len(given), 2), 0.5) if center is None else center % 1.0,
        still + 0.1 if radius is None else radius,
        still if angle is None else angle,
        shape,
        fps,
    )


def along(degrees: float, speed: float, seconds: np.ndarray = STEPS) -> np.ndarray:
    """A straight path."""
    turn = math.radians(degrees)
    return 0.5 + speed * seconds[:, None] * np.array([math.cos(turn), math.sin(turn)])


def zigzag(share: float, speed: float = 0.3) -> np.ndarray:
    """Half of the time to one side and half to the other; ``share`` of its way is straight."""
    side = math.sqrt(1 - share**2) * np.minimum(STEPS, STEPS[-1] - STEPS)
    return 0.5 + speed * np.stack((share * STEPS, side), 1)


def circle(turn: float, radius: float, flat: float = 1.0, seconds: float = 8.0) -> np.ndarray:
    """Round at ``turn`` radians a second, ``flat`` times as high as wide."""
    angle = turn * np.arange(round(seconds * FPS)) / FPS
    return 0.5 + radius * np.stack((np.cos(angle), flat * np.sin(angle)), 1)


def stopping(moving: np.ndarray, windows: int) -> np.ndarray:
    """The same, but it rests for so many of its half seconds."""
    end = len(moving) - 6 * windows
    return np.concatenate((moving[:end], np.repeat(moving[end - 1 : end], 6 * windows, 0)))


@pytest.mark.parametrize(
    ("speed", "motion"),
    [
        (0.105, "moves right"),
        (0.095, "unclear"),
        (0.055, "unclear"),
        (0.045, "still"),
        (0, "still"),
    ],
)
def test_a_move_has_a_tenth_of_the_side_a_second(speed, motion):
    assert judged(along(0, speed)) == motion


@pytest.mark.parametrize("fps", [8.0, 12.0, 30.0])
def test_speeds_are_by_the_second_at_every_rate(fps):
    seconds = np.arange(round(4 * fps)) / fps
    assert judged(along(90, 0.105, seconds), fps=fps) == "moves down"
    assert judged(along(90, 0.095, seconds), fps=fps) == "unclear"
    assert judged(angle=0.63 * seconds, fps=fps) == "spins"
    assert judged(angle=0.57 * seconds, fps=fps) == "still"


def test_four_frames_show_a_motion_and_three_do_not():
    assert judged(along(180, 0.3)[:4]) == "moves left"
    assert judged(along(180, 0.3)[:3]) == "still"


@pytest.mark.parametrize(
    ("degrees", "motion"),
    [(0, "moves right"), (19, "moves right"), (22, "bounces"), (45, "bounces"), (68, "bounces")]
    + [(71, "moves down"), (-161, "moves left"), (-109, "moves up"), (-112, "bounces")],
)
def test_a_move_is_along_an_axis(degrees, motion):
    assert judged(along(degrees, 0.3)) == motion


@pytest.mark.parametrize(("share", "motion"), [(0.88, "moves right"), (0.8, "bounces")])
def test_a_move_is_straight(share, motion):
    assert judged(zigzag(share)) == motion


@pytest.mark.parametrize(("turn", "motion"), [(0.86, "orbits"), (0.76, "unclear")])
def test_an_orbit_goes_round(turn, motion):
    assert judged(circle(turn, 0.25)) == motion


@pytest.mark.parametrize(("flat", "motion"), [(1.0, "orbits"), (0.7, "orbits"), (0.45, "unclear")])
def test_an_orbit_is_round(flat, motion):
    assert judged(circle(1.5, 0.25, flat)) == motion


@pytest.mark.parametrize(("rate", "motion"), [(0.125, "grows"), (0.115, "still"), (-0.3, "still")])
def test_growth_is_a_share_of_the_radius(rate, motion):
    for size in (0.05, 0.2):
        assert judged(radius=size * np.exp(rate * STEPS)) == motion


@pytest.mark.parametrize(("rate", "motion"), [(0.62, "spins"), (-0.62, "spins"), (0.58, "still")])
def test_a_spin_has_six_tenths_of_a_radian_a_second(rate, motion):
    assert judged(angle=rate * STEPS) == motion


def test_what_looks_alike_at_every_angle_does_not_spin():
    for shape, motion in (("circle", "still"), ("ring", "still"), ("heart", "spins")):
        assert judged(angle=STEPS, shape=shape) == motion


@pytest.mark.parametrize(("rests", "moves"), [(0, True), (1, True), (3, False), (5, False)])
def test_a_motion_rests_for_at_most_a_quarter_of_its_time(rests, moves):
    assert judged(stopping(along(0, 0.3), rests)) == ("moves right" if moves else "still")
    grown = stopping(0.1 * np.exp(0.4 * STEPS), rests)
    assert judged(radius=grown) == ("grows" if moves else "still")
    assert judged(angle=stopping(STEPS, rests)) == ("spins" if moves else "still")
