"""Masks: the relation they draw, block by block, whatever the sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.attention import TableMask
from longlive_core.kv_cache import Window
from longlive_core.sequence_parallel import BalancedPartition
from longlive_models.objectives import (
    block_causal_mask,
    shot_anchors,
    teacher_forcing_mask,
    teacher_forcing_table,
)

CPU = torch.device("cpu")


@st.composite
def layouts(draw) -> tuple[int, int, int]:
    """frames, tokens_per_frame, frames_per_block; the last block may be short."""
    return draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 4))


@st.composite
def films(draw) -> tuple[Window, int, tuple[int, ...]]:
    """A window, a number of blocks, the blocks where shots begin."""
    sink, shot_sink = draw(st.integers(0, 2)), draw(st.integers(0, 1))
    pages = draw(st.integers(sink + shot_sink + 1, 6))
    blocks = draw(st.integers(1, 9))
    cuts = draw(st.sets(st.integers(0, blocks - 1), max_size=3))
    return Window(pages=pages, sink=sink, shot_sink=shot_sink), blocks, tuple(sorted(cuts))


@given(layouts())
def test_teacher_forcing_is_the_published_relation(layout):
    frames, tokens, per_block = layout
    mask = teacher_forcing_mask(*layout).dense(CPU)
    half = frames * tokens
    for q in range(2 * half):
        for kv in range(2 * half):
            q_block, kv_block = (i % half // tokens // per_block for i in (q, kv))
            if kv >= half:
                expected = q >= half and q_block == kv_block
            elif q >= half:
                expected = kv_block < q_block
            else:
                expected = kv_block <= q_block
            assert mask[q, kv] == expected, (q, kv)


@given(layouts())
def test_block_causal_is_teacher_forcings_clean_half(layout):
    half = layout[0] * layout[1]
    mask = block_causal_mask(*layout).dense(CPU)
    assert torch.equal(mask, teacher_forcing_mask(*layout).dense(CPU)[:half, :half])


@given(layouts(), st.integers(1, 4))
def test_a_short_first_block_moves_the_others_up(layout, first):
    frames, tokens, per_block = layout
    first = min(first, per_block)
    mask = block_causal_mask(*layout, first_block_frames=first).dense(CPU)
    block = [0 if f < first else 1 + (f - first) // per_block for f in range(frames)]
    expected = torch.tensor([[kv <= q for kv in block] for q in block])
    assert torch.equal(mask, expected.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1))


@given(films())
def test_under_a_policy_a_block_sees_what_the_cache_would_show(film):
    window, blocks, cuts = film
    anchors = shot_anchors(blocks, cuts)
    mask = teacher_forcing_mask(blocks, 1, 1, policy=window, shot_starts=anchors).dense(CPU)
    causal = block_causal_mask(blocks, 1, 1, policy=window, shot_starts=anchors).dense(CPU)
    for block, anchor in enumerate(anchors):
        visible = set(window.visible(block, anchor))
        clean, noisy = mask[block], mask[blocks + block]
        assert set(clean.nonzero().flatten().tolist()) == visible
        assert set(noisy.nonzero().flatten().tolist()) == visible - {block} | {blocks + block}
        assert set(causal[block].nonzero().flatten().tolist()) == visible


@given(films(), st.integers(1, 3))
def test_the_table_is_the_mask_in_blocks(film, tokens):
    window, blocks, cuts = film
    anchors = shot_anchors(blocks, cuts)
    mask = teacher_forcing_mask(2 * blocks, tokens, 2, policy=window, shot_starts=anchors)
    table = TableMask(teacher_forcing_table(window, anchors)[None], 2 * tokens)
    assert torch.equal(table.dense(CPU)[0, 0], mask.dense(CPU))


@given(films(), st.integers(1, 4), st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_the_natural_mask_of_ranks_is_the_usual_one_in_their_order(
    film, ranks, tokens, per_block, with_policy
):
    window, blocks, cuts = film
    if blocks < ranks:
        ranks = blocks
    frames = blocks * per_block
    partition = BalancedPartition(
        frames=frames, ranks=ranks, tokens_per_frame=tokens, frames_per_block=per_block
    )
    anchors = shot_anchors(blocks, cuts)
    policy = {"policy": window, "shot_starts": anchors} if with_policy else {}
    usual = teacher_forcing_mask(frames, tokens, per_block, **policy).dense(CPU)
    natural = teacher_forcing_mask(
        frames, tokens, per_block, **policy, order=partition.frame_order
    ).dense(CPU)
    half = frames * tokens
    home = [
        partition.locate(i).frame * tokens + i % tokens + half * partition.locate(i).noisy
        for i in range(2 * half)
    ]
    assert torch.equal(natural, usual[home][:, home])
    if with_policy:
        table = teacher_forcing_table(window, anchors, order=partition.block_order)
        as_table = TableMask(table[None], per_block * tokens).dense(CPU)[0, 0]
        assert torch.equal(as_table, natural)


def test_an_order_that_lacks_something_is_refused():
    with pytest.raises(ValueError, match=r"clean and the noisy copy of each of 2 once, got 3"):
        teacher_forcing_mask(2, 1, 1, order=[(0, False), (1, False), (0, True)])
    with pytest.raises(ValueError, match=r"each of 2 once, got 4"):
        teacher_forcing_table(Window(), (0, 0), order=[(0, False), (1, False)] * 2)


@given(st.integers(1, 8))
def test_a_window_as_long_as_the_film_hides_nothing(blocks):
    plain = teacher_forcing_mask(2 * blocks, 2, 2).dense(CPU)
    window = Window(pages=blocks + 2)
    assert torch.equal(plain, teacher_forcing_mask(2 * blocks, 2, 2, policy=window).dense(CPU))


def test_a_cuts_own_block_still_belongs_to_the_shot_before():
    assert shot_anchors(9, [3, 6]) == (0, 0, 0, 0, 3, 3, 3, 6, 6)
    assert shot_anchors(3, []) == (0, 0, 0)
    assert shot_anchors(3, [0, 1]) == (0, 0, 1)


def test_a_policy_reads_the_same_in_tiles():
    film = {"policy": Window(pages=3), "shot_starts": shot_anchors(5, [2])}
    mask = teacher_forcing_mask(10, 32, 2, **film)
    assert mask.flex(CPU).to_dense().sum() > 0
    tiles = mask.dense(CPU).unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).any(3).any(1)
    assert torch.equal(mask.flex(CPU).to_dense()[0, 0].bool(), tiles)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="shot_starts needs a policy"):
        teacher_forcing_mask(4, 1, 2, shot_starts=(0, 0))
    with pytest.raises(ValueError, match=r"one block for each of 2 blocks, got 3.*shot_anchors\(2"):
        teacher_forcing_mask(4, 1, 2, policy=Window(), shot_starts=(0, 0, 0))
    with pytest.raises(ValueError, match="at least 1, got 0, 1 and 2"):
        block_causal_mask(0, 1, 2)
    with pytest.raises(ValueError, match="first_block_frames must be 1 to 2, got 3"):
        block_causal_mask(4, 1, 2, first_block_frames=3)
