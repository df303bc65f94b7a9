"""The partition: every token is held once, lies where the partition says, and work is balanced."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longlive_core.sequence_parallel import BalancedPartition, Place, split_evenly


@st.composite
def partitions(draw: st.DrawFn) -> BalancedPartition:
    block = draw(st.integers(1, 4))
    frames, ranks = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    assume(-(-frames // block) >= ranks)
    return BalancedPartition(
        frames=frames,
        ranks=ranks,
        tokens_per_frame=draw(st.integers(1, 3)),
        frames_per_block=block,
        copies=draw(st.sampled_from((1, 2))),
    )


@given(partitions())
def test_every_frame_is_held_once_and_in_order(partition):
    held = [frame for rank in range(partition.ranks) for frame in partition.frames_of(rank)]
    assert held == list(range(partition.frames))
    blocks = [block for rank in range(partition.ranks) for block in partition.blocks_of(rank)]
    assert blocks == list(range(partition.blocks))


@given(partitions())
def test_ranks_hold_whole_blocks_and_differ_by_one_at_most(partition):
    counts = [len(partition.blocks_of(rank)) for rank in range(partition.ranks)]
    assert max(counts) - min(counts) <= 1 and min(counts) >= 1
    assert counts == sorted(counts, reverse=True)
    for rank in range(partition.ranks):
        assert partition.frames_of(rank).start % partition.frames_per_block == 0


@given(partitions())
def test_tokens_lie_rank_by_rank_clean_before_noisy(partition):
    lies = []
    for rank in range(partition.ranks):
        for noisy in (False, True)[: partition.copies]:
            for frame in partition.frames_of(rank):
                place = Place(frame, frame // partition.frames_per_block, noisy)
                lies += [place] * partition.tokens_per_frame
    assert [partition.locate(token) for token in range(partition.tokens)] == lies
    assert sum(partition.tokens_by_rank) == partition.tokens == len(lies)


def test_the_example_of_the_readme():
    partition = BalancedPartition(frames=8, ranks=2, tokens_per_frame=6, frames_per_block=2)
    assert partition.tokens_by_rank == (48, 48)
    assert [block for block, _ in partition.block_order] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert [noisy for _, noisy in partition.block_order] == [False, False, True, True] * 2
    assert [frame for frame, _ in partition.frame_order[:5]] == [0, 1, 2, 3, 0]
    assert partition.locate(24) == Place(frame=0, block=0, noisy=True)


def test_what_does_not_divide_goes_to_the_first_ranks():
    assert [list(r) for r in split_evenly(7, 3)] == [[0, 1, 2], [3, 4], [5, 6]]
    uneven = BalancedPartition(frames=10, ranks=2, tokens_per_frame=1, frames_per_block=4)
    assert [list(uneven.frames_of(r)) for r in (0, 1)] == [list(range(8)), [8, 9]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"ranks": 4}, r"6 frames make 3 blocks of 2, fewer than 4 ranks.*at most 3 ranks"),
        ({"frames": 0}, "BalancedPartition.frames is at least 1, got 0"),
        ({"copies": 3}, r"copies is at most 2, got 3"),
    ],
)
def test_impossible_partitions_are_refused_with_their_numbers(sizes, message):
    usual = {"frames": 6, "ranks": 2, "tokens_per_frame": 1, "frames_per_block": 2}
    with pytest.raises(ValueError, match=message):
        BalancedPartition(**{**usual, **sizes})


def test_questions_without_an_answer_are_refused():
    partition = BalancedPartition(frames=3, ranks=1, tokens_per_frame=2, frames_per_block=2)
    with pytest.raises(ValueError, match="token 12 does not exist.*tokens 0 to 11"):
        partition.locate(12)
    with pytest.raises(ValueError, match="3 frames do not divide into blocks of 2"):
        _ = partition.block_order
