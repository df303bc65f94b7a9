"""Snapshots on a shelf: spread over the video within their bytes, and found by what they allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.stream_snapshot import SnapshotSummary
from longlive_recipes.serve.shelf import Shelf, with_events
from tests.models.tiny_pipeline import tiny_pipeline


def write(size: int):
    return lambda path: path.write_bytes(b"x" * size)


def blocks(shelf: Shelf) -> list[int]:
    return [kept.block for kept in shelf.kept]


def test_the_shelf_is_read_again_from_its_folder(tmp_path):
    shelf = Shelf(tmp_path / "s", every=2, most_bytes=100)
    assert shelf.kept == [] and shelf.newest() is None and shelf.before(9) is None
    shelf.put(2, 3, write(10))
    shelf.put(4, 5, write(20))
    (tmp_path / "s" / "other.txt").write_text("left alone")
    again = Shelf(tmp_path / "s", every=2, most_bytes=100)
    assert again.kept == shelf.kept and again.size == 30
    assert again.before(2) is None  # block 2 has begun already in the first one
    assert [again.before(block).block for block in (3, 4, 5, 99)] == [2, 2, 4, 4]
    again.clear()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["other.txt"]


@given(st.integers(2, 6), st.integers(3, 40))
def test_what_is_left_is_within_its_bytes_spread_and_has_the_newest(tmp_path_factory, room, count):
    shelf = Shelf(tmp_path_factory.mktemp("shelf"), every=1, most_bytes=10 * room)
    for block in range(1, count + 1):
        shelf.put(block, block, write(10))
    kept = blocks(shelf)
    assert len(kept) == min(room, count) and shelf.size <= 10 * room
    assert kept[-1] == count
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert max(gaps) <= 2 * -(-count // len(kept)) + 1


def test_one_that_is_too_large_is_not_kept_and_no_other_is_tried(tmp_path):
    shelf = Shelf(tmp_path, every=2, most_bytes=5)
    assert shelf.due(2) and not shelf.due(3)
    assert shelf.put(2, 2, write(6)) is None
    assert shelf.kept == [] and list(tmp_path.iterdir()) == [] and not shelf.due(4)


def test_events_of_a_snapshot_are_replaced(tmp_path):
    with tiny_pipeline().stream("a red circle", seconds=10) as stream:
        next(stream)
        stream.prompt("a blue square", at=5.0)
        stream.snapshot(tmp_path / "a.snapshot")
    events = [{"block": 2, "text": "the square", "memory": "cut", "forget": False}]
    with_events(tmp_path / "a.snapshot", tmp_path / "new" / "b.snapshot", events)
    before, after = (
        SnapshotSummary.read(tmp_path / name) for name in ("a.snapshot", "new/b.snapshot")
    )
    assert before.events[0]["text"] == "a blue square" and list(after.events) == events
    assert (after.block, after.plan, after.origin) == (before.block, before.plan, before.origin)
    with pytest.raises(ValueError, match="past the end"):
        late = [{"block": 99, "text": "a", "memory": "keep", "forget": False}]
        with_events(tmp_path / "a.snapshot", tmp_path / "c.snapshot", late)
