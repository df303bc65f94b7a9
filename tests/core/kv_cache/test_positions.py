"""Positions are a policy: a frame keeps its number, or its place in the window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import (
    AbsolutePositions,
    PositionPolicy,
    RelativePositions,
    Window,
)

WINDOWS = st.builds(
    lambda more, sink: Window(pages=sink + 1 + more, sink=sink),
    st.integers(1, 4),
    st.integers(0, 3),
)


def test_a_frame_keeps_its_number_and_its_shot_s_offset():
    places = AbsolutePositions().places((0, 4, 2, 3), 4, 2, offset=8.0)
    assert (places.own, places.keys) == ((16.0, 17.0), None)


def test_a_window_starts_at_zero_whatever_lies_between_its_pages():
    places = RelativePositions().places((0, 7, 4, 6), 7, 2, offset=8.0)
    assert places.own == (6, 7)
    assert places.keys == (0, 1, 6, 7, 2, 3, 4, 5)


@given(WINDOWS, st.integers(0, 10**6), st.integers(1, 8), st.randoms())
def test_places_in_a_window_are_few_and_in_order_of_time(window, block, frames, random):
    order = list(window.visible(block))
    random.shuffle(order)
    places = RelativePositions().places(order, block, frames)
    assert sorted(places.keys) == list(range(len(order) * frames))
    assert places.own == tuple(range((len(order) - 1) * frames, len(order) * frames))
    start = {page: places.keys[place * frames] for place, page in enumerate(order)}
    assert sorted(order, key=start.__getitem__) == sorted(order)


@pytest.mark.parametrize("policy", [AbsolutePositions(), RelativePositions()], ids=repr)
def test_both_are_position_policies(policy):
    assert isinstance(policy, PositionPolicy)
    assert policy.rotated == (policy.places((0,), 0, 1).keys is None)
