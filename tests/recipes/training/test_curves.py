"""Ticks, axes, means and lines of curves in SVG."""

import math
import re
import xml.etree.ElementTree as xml

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longlive_recipes.training.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Line,
    nice_ticks,
    picture,
    short,
    smoothed,
    thinned,
)

SIZES = st.floats(-1e12, 1e12)
SVG = {"s": "http://www.w3.org/2000/svg"}


def places(drawn: str) -> list[tuple[float, float]]:
    """The points of all paths."""
    found = []
    for path in re.findall(r'<path [^>]*d="M([^"]+)"', drawn):
        found += [tuple(map(float, point.split(","))) for point in path.split("L")]
    return found


@given(SIZES, SIZES)
def test_ticks_are_round_few_and_inside(low, high):
    assume(high - low > 1e-9 * max(abs(low), abs(high), 1e-3))
    ticks = nice_ticks(low, high)
    room = 1e-6 * (high - low)
    assert 0 < len(ticks) <= 6
    assert all(low - room <= tick <= high + room for tick in ticks)
    gaps = {round((b - a) / (high - low), 6) for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(gaps) <= 1 or max(gaps) - min(gaps) < 1e-5


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(-1e9, 1e9)), min_size=1, max_size=300),
    st.booleans(),
)
def test_every_point_of_a_picture_is_within_its_frame(gaps, noisy):
    step, points = 0, []
    for gap, value in gaps:
        step += gap
        points.append((step, value))
    drawn = picture([Line(name="a", points=points)], "a", noisy=noisy)
    xml.fromstring(drawn)
    for x, y in places(drawn):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP - 0.01 <= y <= HEIGHT - BOTTOM + 0.01


def test_a_higher_value_is_higher_up_and_a_later_step_further_right():
    drawn = picture([Line(name="loss", points=[(10, 1.0), (20, 3.0), (40, 2.0)])], "loss")
    (x0, y0), (x1, y1), (x2, y2) = places(drawn)
    assert x0 < x1 < x2
    assert x2 - x1 == pytest.approx(2 * (x1 - x0), abs=0.05)
    assert y1 < y2 < y0
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.05)


def test_values_over_decades_have_a_logarithmic_axis_unless_they_are_a_plan():
    points = [(1, 1.0), (2, 0.1), (3, 0.01)]
    drawn = picture([Line(name="loss", points=points)], "loss")
    assert "logarithmic" in drawn
    (_, y0), (_, y1), (_, y2) = places(drawn)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.05)
    assert "logarithmic" not in picture([Line(name="rate", points=points)], "rate", noisy=False)
    zero = [*points, (4, 0.0)]
    assert "logarithmic" not in picture([Line(name="loss", points=zero)], "loss")


def test_logarithmic_ticks_are_round():
    axis = Axis(low=math.log10(0.03), high=math.log10(4), start=0, end=100, log=True)
    assert axis.ticks() == pytest.approx([0.05, 0.1, 0.2, 0.5, 1.0, 2.0])


@given(st.lists(SIZES, min_size=1, max_size=200))
def test_a_mean_stays_within_the_values_and_keeps_the_steps(values):
    points = list(enumerate(values))
    means = smoothed(points)
    assert [step for step, _ in means] == [step for step, _ in points]
    slack = 1e-9 * sum(map(abs, values))
    assert all(min(values) - slack <= mean <= max(values) + slack for _, mean in means)


def test_a_mean_is_over_a_twentieth_of_the_points():
    points = [(step, float(step == 200)) for step in range(400)]
    means = [mean for _, mean in smoothed(points)]
    assert [step for step, mean in enumerate(means) if mean] == list(range(190, 211))
    assert means[200] == pytest.approx(1 / 21)


@given(st.integers(1, 500), st.integers(2, 50))
def test_what_is_left_of_many_points_has_the_ends_in_order(count, most):
    points = [(place, 0.0) for place in range(count)]
    few = thinned(points, most)
    assert len(few) == min(count, most)
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert sorted(set(few)) == few


def test_many_noisy_points_are_smoothed_and_tell_some_of_their_numbers():
    points = [(step, 1.0 + step % 2) for step in range(1, 1001)]
    drawn = xml.fromstring(
        picture([Line(name="a<b", points=points, color=1)], "a<b").replace(
            "<svg ", f'<svg xmlns="{SVG["s"]}" '
        )
    )
    raw, mean = drawn.findall("s:path", SVG)
    assert raw.get("class") == "line c1 raw"
    assert mean.get("class") == "line c1"
    titles = [title.text for title in drawn.findall("s:circle/s:title", SVG)]
    assert len(titles) == 80
    assert titles[0] == "a<b, step 1: 2"
    assert titles[-1] == "a<b, step 1000: 1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.05054321, "0.05054"),
        (1e-7, "1e-07"),
        (2.5e6, "2.5M"),
        (-3e4, "-30k"),
        (9999.4, "9999"),
        (9999.6, "10k"),
        (-12345, "-12.3k"),
        (999_499, "999k"),
        (999_501, "1M"),
        (123_456_789, "123M"),
        (999_600_000, "1.00e+09"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text
