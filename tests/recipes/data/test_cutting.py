"""Blocks: 29 frames, then 32; never over a cut; every frame in its order, at most once."""

from hypothesis import given
from hypothesis import strategies as st

from longlive_models.timing import BlockTiming
from longlive_recipes.data.cutting import cut_blocks, frames_missing, shots_of_clips

TIMING = BlockTiming(fps=12)
shots = st.lists(st.integers(0, 200), min_size=1, max_size=5)


@given(shots, st.integers(1, 4))
def test_a_block_is_of_one_shot_and_of_whole_length(lengths, most):
    frames = [(shot, (shot, n)) for shot, count in enumerate(lengths) for n in range(count)]
    pieces = list(cut_blocks(frames, TIMING, most))
    order = [frame for piece in pieces for frame in piece.frames]
    assert order == sorted(set(order))
    for place, piece in enumerate(pieces):
        assert len(piece.frames) == (32 if piece.block else 29)
        assert {shot for shot, _ in piece.frames} == {piece.shot}
        numbers = [n for _, n in piece.frames]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        before = pieces[place - 1] if place else None
        if before is None or before.block == most - 1:
            assert piece.block == 0
        else:
            assert (piece.clip, piece.block) == (before.clip, before.block + 1)


@given(shots, st.integers(1, 4))
def test_nothing_is_left_out_but_the_end_of_a_shot(lengths, most):
    frames = [(shot, n) for shot, count in enumerate(lengths) for n in range(count)]
    used = {}
    for piece in cut_blocks(frames, TIMING, most):
        used[piece.shot] = used.get(piece.shot, 0) + len(piece.frames)
    assert all(count - used.get(shot, 0) < 32 for shot, count in enumerate(lengths))


def test_the_shots_of_each_clip_are_known_without_frames():
    assert shots_of_clips([29 + 32 + 5, 32, 28, 100], TIMING, 3) == ((0, 0, 1), (3, 3, 3))
    assert shots_of_clips([28], TIMING, 3) == ()
    assert shots_of_clips([29 + 32 + 29], TIMING, 2) == ((0, 0), (0,))


@given(shots, st.integers(1, 4))
def test_as_many_frames_more_as_a_shot_lacks_make_one_more_block(lengths, most):
    missing = frames_missing(lengths, TIMING, most)
    last, lacks = lengths[-1], missing[-1]
    frames = [(shot, n) for shot, count in enumerate(lengths[:-1]) for n in range(count)]

    def blocks(count: int) -> int:
        own = [(len(lengths) - 1, n) for n in range(count)]
        return len(list(cut_blocks(frames + own, TIMING, most)))

    if lacks:
        assert blocks(last + lacks) == blocks(last + lacks - 1) + 1 == blocks(last) + 1
    else:
        assert last == 0 or blocks(last) == blocks(last - 1) + 1
