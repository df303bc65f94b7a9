"""What is taken for an object: pictures a little above and below each tuned number."""

import math

import numpy as np
import pytest

from longlive_recipes.moving_shapes.attributes import COLOURS
from longlive_recipes.moving_shapes.judge import judge_shot
from longlive_recipes.moving_shapes.judge_measure import Measurements, measure

SIDE = 128


def picture(*squares: tuple[int, int, int, object], ground: int = 0) -> np.ndarray:
    """One frame; a square is left, top, side and colour, and lies on those before."""
    frame = np.full((1, SIDE, SIDE, 3), ground, np.uint8)
    for left, top, side, colour in squares:
        frame[0, top : top + side, left : left + side] = colour
    return frame


def middle(side: int, colour: object) -> tuple[int, int, int, object]:
    return (SIDE - side) // 2, (SIDE - side) // 2, side, colour


def side_of(measured: Measurements) -> float:
    """Of the square of the object's area, in pixels."""
    return float(measured.radius[0]) * math.sqrt(math.pi) * SIDE


@pytest.mark.parametrize(("share", "side"), [(0.40, 40), (0.36, 24)])
def test_a_pixel_of_more_than_38_hundredths_of_the_contrast_is_the_objects(share, side):
    measured = measure(picture(middle(40, round(255 * share)), middle(24, 255)))
    assert side_of(measured) == pytest.approx(side, abs=0.6)


@pytest.mark.parametrize(("core", "side"), [(15, 40), (17, 17)])
def test_the_contrast_is_that_of_15_thousandths_of_the_picture(core, side):
    """A bright spot of less does not make the rest of an object part of the background."""
    measured = measure(picture(middle(40, 85), middle(core, 255)))
    assert side_of(measured) == pytest.approx(side, abs=0.6)


@pytest.mark.parametrize(("gray", "present"), [(16, False), (17, True)])
def test_what_is_28_from_the_background_is_an_object(gray, present):
    """In 8-bit RGB: 17 in three channels are 29.4, 16 are 27.7."""
    assert measure(picture(middle(30, gray))).present.tolist() == [present]
    assert measure(picture(middle(30, 100 + gray), ground=100)).present.tolist() == [present]


@pytest.mark.parametrize(("side", "present"), [(8, False), (10, True)])
def test_an_object_has_five_thousandths_of_the_picture(side, present):
    assert measure(picture(middle(side, 255))).present.tolist() == [present]


@pytest.mark.parametrize(("distance", "counts"), [(38, True), (56, False)])
def test_what_is_a_third_of_the_side_away_belongs_to_something_else(distance, counts):
    far = (64 + distance - 3, 61, 6, 255)
    alone, both = measure(picture(middle(30, 255))), measure(picture(middle(30, 255), far))
    assert (both.radius[0] > alone.radius[0]) == counts


@pytest.mark.parametrize(
    ("left", "top", "whole"),
    [(1, 40, True), (40, 1, True), (0, 40, False), (40, 0, False), (97, 40, True)]
    + [(98, 40, False), (40, 98, False), (40, 97, True), (110, 110, False)],
)
def test_an_object_that_touches_an_edge_is_not_whole(left, top, whole):
    frame = np.roll(picture((0, 0, 30, 255)), (top, left), (1, 2))
    measured = measure(frame)
    assert measured.whole.tolist() == [whole]
    assert side_of(measured) == pytest.approx(30, abs=0.6)
    offset = measured.center[0] - (np.array([left, top]) + 15) / SIDE
    assert np.abs(offset - np.round(offset)).max() < 1e-3


def cross_of(width: int, colour: object) -> np.ndarray:
    """Two lines through the middle."""
    frame = picture()
    first = (SIDE - width) // 2
    frame[0, first : first + width, 34:94] = colour
    frame[0, 34:94, first : first + width] = colour
    return frame


@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_without_inner_pixels_has_a_colour_all_the_same(colour):
    """Lines of 3 pixels: none of theirs lies two away from the background."""
    frame = cross_of(3, COLOURS[colour])
    measured = measure(frame)
    area = round(float(measured.radius[0]) ** 2 * math.pi * SIDE**2)
    assert measured.votes.sum() == area
    assert list(COLOURS)[int(measured.votes[0].argmax())] == colour
    assert measured.colour[0] == pytest.approx(COLOURS[colour], rel=0.02)
    assert judge_shot(frame.repeat(4, 0)).colour == colour


def test_the_rim_of_an_object_that_is_wide_enough_does_not_vote():
    frame = picture(middle(40, COLOURS["red"]), middle(32, COLOURS["blue"]))
    votes = dict(zip(COLOURS, measure(frame).votes[0].tolist(), strict=True))
    assert votes["blue"] > 900
    assert votes["red"] <= votes["blue"] // 2
