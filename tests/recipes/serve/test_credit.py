"""Credit: how far a video is made for those who watch it."""

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.serve.credit import Credit


def test_a_watcher_is_ahead_of_what_it_asks_for_as_long_as_it_stays():
    credit = Credit(2)
    assert (credit.blocks, credit.watchers) == (1, 0)
    with credit.watching() as ask:
        ask(5)
        assert (credit.blocks, credit.watchers, credit.idle()) == (8, 1, 0.0)
    assert (credit.blocks, credit.watchers) == (1, 0)
    assert 0 <= credit.idle() < 5


def test_what_was_fetched_stays_granted_until_somebody_leaves():
    credit = Credit(2)
    credit.watched(4)
    assert credit.blocks == 7
    credit.watched(1)
    assert credit.blocks == 7
    credit.revoke()
    assert credit.blocks == 0
    credit.grant(3)
    assert credit.blocks == 3


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_the_fastest_of_several_watchers_counts(blocks):
    credit = Credit(1)
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(credit.watching())(block)
        assert credit.blocks == max(blocks) + 2
        credit.revoke()
        assert credit.blocks == max(blocks) + 2  # what others ask for stays
    assert credit.blocks == 0
