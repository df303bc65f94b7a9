"""Pages keep their slots, slots are reused, and a page that is gone is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import PageTable, Window


@given(st.integers(3, 8), st.sets(st.integers(0, 30)))
def test_a_page_keeps_its_slot_while_it_is_retained(pages, cuts):
    window, table, anchor = Window(pages=pages), PageTable(pages), 0
    where: dict[int, int] = {}
    for block in range(31):
        retained = window.retained(block, anchor)
        where = {page: slot for page, slot in where.items() if page in retained}
        where[block] = table.make_room(block, retained)
        assert len(set(where.values())) == len(where)
        assert {page: table.slot(page) for page in where} == where
        assert table.slots(where) == tuple(sorted(where.values()))
        anchor = block if block in cuts else anchor


def test_the_lowest_free_slot_is_taken():
    table = PageTable(3)
    assert [table.make_room(page, (0, 1, 2)) for page in range(3)] == [0, 1, 2]
    assert table.make_room(3, (2, 3)) == 0
    assert table.pages == (3, None, 2)
    assert table.make_room(3, (2, 3)) == 0


def test_a_page_that_is_gone_is_named():
    table = PageTable(2)
    table.make_room(4, (4,))
    with pytest.raises(ValueError, match=r"shows pages \[1, 4\], but \[1\] are not held.*\[4\]"):
        table.slots((1, 4))


def test_a_policy_that_retains_more_than_its_capacity_is_told():
    table = PageTable(1)
    table.make_room(0, (0,))
    with pytest.raises(ValueError, match="no slot is free for page 1: 1 slots.*raise its capacity"):
        table.make_room(1, (0, 1))


def test_clear_and_load():
    table, other = PageTable(2), PageTable(2)
    table.make_room(5, (5,))
    other.load(table.pages)
    assert other.pages == (5, None)
    table.clear()
    assert table.pages == (None, None)
    assert other.pages == (5, None)
