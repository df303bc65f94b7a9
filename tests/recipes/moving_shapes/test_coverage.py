"""What prompts leave free, measured on drawn clips; distances against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.moving_shapes.clips import ClipFormat, clip, draw
from longlive_recipes.moving_shapes.coverage import (
    FREE,
    FreeTraits,
    as_values,
    coverage,
    free_traits,
    from_values,
    saturation,
    wasserstein,
)
from longlive_recipes.moving_shapes.dataset import to_bytes

numbers = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def traits(**changes) -> FreeTraits:
    given = {"start_x": 0.5, "start_y": 0.5, "speed": 0.3, "size": 0.2, "saturation": 0.4}
    return FreeTraits(**{**given, **changes})


@given(numbers, st.floats(-3, 3))
def test_a_shift_is_as_far_as_it_is_long(values, shift):
    assert wasserstein(values, [v + shift for v in values]) == pytest.approx(abs(shift), abs=1e-9)


@given(st.data())
def test_of_equally_many_it_is_the_mean_distance_in_order(data):
    a = data.draw(numbers)
    b = data.draw(st.lists(st.floats(-5, 5), min_size=len(a), max_size=len(a)))
    wanted = np.abs(np.sort(a) - np.sort(b)).mean()
    assert wasserstein(a, b) == pytest.approx(wanted, abs=1e-9)
    assert wasserstein(b, a) == pytest.approx(wanted, abs=1e-9)


def test_samples_of_other_sizes_are_compared_as_distributions():
    assert wasserstein([0.0, 1.0], [0.0, 0.0, 1.0, 1.0]) == pytest.approx(0.0)
    assert wasserstein([0.0], [0.0, 1.0]) == pytest.approx(0.5)
    assert math.isnan(wasserstein([], [1.0]))


def test_a_collapsed_student_is_far_from_its_teacher_in_what_it_has_lost():
    rng = np.random.default_rng(0)
    teacher = [traits(start_x=x, speed=v) for x, v in rng.random((300, 2))]
    student = [traits(start_x=0.5, speed=v) for v in rng.random(300)]
    got = coverage([*student, None], teacher)
    assert got.keys() == set(FREE)
    assert got["start_x"] == pytest.approx(0.25, abs=0.02)  # the mean distance to the middle
    assert got["speed"] < 0.05
    assert got["start_y"] == got["size"] == 0


def test_what_is_measured_of_a_drawn_clip_is_what_it_was_drawn_from():
    made = next(
        one
        for index in range(200)
        if (one := clip(0, index, clip_format=ClipFormat(), blocks=1)).shots[0].attributes.motion
        == "moves right"
    )
    path = made.shots[0].path
    got = free_traits(to_bytes(draw([made]))[0].permute(1, 2, 3, 0).numpy())
    assert got is not None
    pose = path.pose_at(0.0)
    assert got.start_x == pytest.approx(pose.x, abs=0.03)
    assert got.start_y == pytest.approx(pose.y, abs=0.03)
    assert got.speed == pytest.approx(math.hypot(*path.velocity), rel=0.05)
    assert got.size == pytest.approx(pose.radius, rel=0.4)  # of a disc of the shape's area


def test_saturation_is_the_span_of_channels():
    gray = np.full((3, 8, 8, 3), 128, np.uint8)
    assert saturation(gray) == 0
    assert saturation(gray * np.array([1, 0, 1], np.uint8)) == pytest.approx(128 / 255)
    assert free_traits(gray) is None


def test_traits_outlive_a_file():
    some = [traits(), None, traits(size=0.1)]
    assert from_values(as_values(some)) == some
