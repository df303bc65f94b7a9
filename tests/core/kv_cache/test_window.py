"""The window shows what the original shows, stays within its budget, and asks for nothing gone."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import Window

# The pages each block sees, first block to last, with cuts at these blocks: four pages, one sink.
TRACES = [
    ((), ["0", "01", "012", "0123", "0234", "0345", "0456", "0567", "0678", "0789"]),
    ((3, 6), ["0", "01", "012", "0123", "0234", "0345", "0356", "0567", "0678", "0689"]),
    ((1,), ["0", "01", "012", "0123", "0134", "0145", "0156"]),
    ((5, 6), ["0", "01", "012", "0123", "0234", "0345", "0456", "0567", "0678", "0689"]),
]


def shots(cuts, blocks):
    """The anchor of each block: a cut's own block still belongs to the shot before."""
    anchor = 0
    for block in range(blocks):
        yield block, anchor
        if block in cuts:
            anchor = block


@pytest.mark.parametrize(("cuts", "trace"), TRACES, ids=lambda value: str(value)[:12])
def test_the_defaults_reproduce_the_original(cuts, trace):
    window = Window()
    got = [window.visible(block, anchor) for block, anchor in shots(cuts, len(trace))]
    assert got == [tuple(map(int, pages)) for pages in trace]


def original(pages: int, sink: int, cuts, blocks: int) -> list[tuple[int, ...]]:
    """The original's buffer, in pages: what each block sees, cuts pinned after their own block."""
    buffer, pinned, seen = [], None, []
    for block in range(blocks):
        if len(buffer) == pages:
            protected = sink + (pinned is not None and buffer.index(pinned) == sink)
            del buffer[protected]
        buffer.append(block)
        seen.append(tuple(buffer))
        if block in cuts:
            pinned = block
        elif pinned is not None and pinned not in buffer:
            pinned = None
    return seen


@given(st.integers(1, 3), st.integers(2, 5), st.sets(st.integers(0, 24)))
def test_any_window_with_room_reproduces_the_original(sink, more, cuts):
    """Cuts within the sink's own pages apart: there is nothing to anchor."""
    window, cuts = Window(pages=sink + more, sink=sink), {cut for cut in cuts if cut >= sink}
    got = [window.visible(block, anchor) for block, anchor in shots(cuts, 25)]
    assert got == original(window.pages, sink, cuts, 25)


@st.composite
def windows(draw):
    sink, shot_sink = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    pages = sink + shot_sink + draw(st.integers(1, 6))
    return Window(pages=pages, sink=sink, shot_sink=shot_sink)


CUTS = st.sets(st.integers(0, 24))


@given(windows(), CUTS)
def test_a_window_is_sorted_within_budget_and_keeps_sinks_and_itself(window, cuts):
    for block, anchor in shots(cuts, 25):
        pages = window.visible(block, anchor)
        assert pages == tuple(sorted(set(pages)))
        assert len(pages) == min(window.pages, block + 1)
        anchors = range(anchor, min(anchor + window.shot_sink, block + 1))
        assert {block, *range(min(window.sink, block + 1)), *anchors} <= set(pages)


@given(windows(), CUTS)
def test_what_is_not_a_sink_is_the_newest(window, cuts):
    for block, anchor in shots(cuts, 25):
        sinks = {*range(window.sink), *range(anchor, anchor + window.shot_sink)}
        others = {*range(block + 1)} - sinks
        shown = others & set(window.visible(block, anchor))
        assert shown == set(sorted(others, reverse=True)[: len(shown)])


@given(windows(), CUTS)
def test_a_page_that_was_not_retained_is_never_asked_for(window, cuts):
    held: set[int] = set()
    for block, anchor in shots(cuts, 25):
        retained = set(window.retained(block, anchor))
        assert retained <= held | {block}
        assert set(window.visible(block, anchor)) <= retained
        assert len(retained) <= window.capacity
        held = retained


@given(windows())
def test_capacity_is_reached_or_is_the_plain_budget(window):
    most = max(
        len(window.retained(block, anchor)) for block in range(24) for anchor in range(block + 1)
    )
    assert most == window.capacity


def test_one_page_an_anchor_needs_no_more_room_than_the_window():
    assert Window(pages=4, sink=1, shot_sink=1).capacity == 4
    assert Window(pages=6, sink=2, shot_sink=0).capacity == 6


def test_without_a_cut_the_window_only_moves_on():
    seen = [set(Window(pages=5, sink=2, shot_sink=0).visible(block)) for block in range(30)]
    assert all(later - now == {block + 1} for block, (now, later) in enumerate(pairwise(seen)))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pages": 2}, "leaves no page for the block itself: the sinks take 2.*above 2"),
        ({"pages": 4, "sink": 3, "shot_sink": 2}, "the sinks take 5"),
        ({"sink": -1}, r"Window.sink is at least 0, got -1: it counts whole pages"),
        ({"shot_sink": -2}, r"Window.shot_sink is at least 0, got -2"),
    ],
)
def test_a_window_without_room_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Window(**sizes)


@pytest.mark.parametrize("anchor", [-1, 4])
def test_a_shot_cannot_start_after_its_block(anchor):
    with pytest.raises(ValueError, match=f"block 3 cannot belong to a shot.*page {anchor}"):
        Window().visible(3, anchor)


def test_the_first_shot_starts_at_page_0_unless_another_is_named():
    window = Window(pages=4, sink=1, shot_sink=1)
    assert window.visible(0) == window.retained(0) == (0,)
    assert window.visible(6) == window.visible(6, 0)
    assert window.retained(6) == window.retained(6, 0)


@pytest.mark.parametrize("sink", [0, 1, 2])
def test_only_the_films_sinks_outlast_a_shot_that_forgets(sink):
    """The anchor of a shot goes with it: a number of the film's first pages, no more."""
    assert Window(pages=6, sink=sink, shot_sink=2).lasting == tuple(range(sink))


def test_sinks_longer_than_any_film_cost_nothing():
    policy = Window(pages=10**18, sink=10**17, shot_sink=10**17)
    assert policy.visible(5) == policy.retained(5, 3) == (0, 1, 2, 3, 4, 5)
    assert Window(pages=10**18, sink=0, shot_sink=10**17).visible(3, 2) == (0, 1, 2, 3)
