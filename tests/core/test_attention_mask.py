"""One mask, two forms: dense, and tiles for FlexAttention. They say the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from longlive_core import attention_mask
from longlive_core.attention import AttentionMask, TableMask, masked_attention
from longlive_core.testing import assert_bitwise_equal

CPU = torch.device("cpu")


@st.composite
def tables(draw):
    """Blocks that see one another by a random table, each block itself; and a block's tokens."""
    blocks = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    table = (torch.rand(blocks, blocks, generator=generator) < 0.5) | torch.eye(blocks).bool()
    return table, draw(st.sampled_from([16, 100, 128, 160]))


def mask_of(table: torch.Tensor, block: int) -> AttentionMask:
    tokens = len(table) * block
    return AttentionMask(
        lambda b, h, q, kv, table: table[q // block, kv // block], tokens, tokens, (table,)
    )


@given(tables())
def test_dense_is_the_table_spread_over_tokens(drawn):
    table, block = drawn
    want = table.repeat_interleave(block, 0).repeat_interleave(block, 1)
    assert_bitwise_equal(mask_of(table, block).dense(CPU), want)


@given(tables())
def test_tiles_are_those_of_torch(drawn):
    table, block = drawn
    mask = mask_of(table, block)
    want = create_block_mask(
        lambda b, h, q, kv: table[q // block, kv // block],
        None,
        None,
        mask.q_len,
        mask.kv_len,
        device="cpu",
    )
    got = mask.flex(CPU)
    assert got.shape == want.shape
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert_bitwise_equal(vars(got)[name], vars(want)[name], name)
    assert_bitwise_equal(got.to_dense(), want.to_dense())


def test_counting_tiles_a_few_rows_at_a_time_changes_nothing(monkeypatch):
    def mask():
        return AttentionMask(lambda b, h, q, kv: (kv <= q) | (kv > 500), 700, 700)

    whole = mask().flex(CPU)
    starts, some_rows = [], AttentionMask._some_rows
    monkeypatch.setattr(
        AttentionMask,
        "_some_rows",
        lambda mask, start, *rest: starts.append(start) or some_rows(mask, start, *rest),
    )
    monkeypatch.setattr(attention_mask, "_CHUNK", 1)
    pieces = mask().flex(CPU)
    assert starts == list(range(0, 700, 128))
    assert_bitwise_equal(pieces.to_dense(), whole.to_dense())
    assert_bitwise_equal(pieces.kv_num_blocks, whole.kv_num_blocks)
    assert_bitwise_equal(pieces.kv_indices, whole.kv_indices)


def test_queries_and_keys_may_differ_in_number():
    mask = AttentionMask(lambda b, h, q, kv: kv <= q + 200, 130, 330)
    assert mask.dense(CPU).shape == (130, 330)
    assert mask.flex(CPU).shape[-2:] == (130, 330)


def test_forms_are_made_once():
    calls = []

    def mask_mod(b, h, q, kv):
        calls.append(1)
        return q >= kv

    mask = AttentionMask(mask_mod, 20, 20)
    mask.prepare(CPU)
    asked = len(calls)
    assert mask.dense(CPU) is mask.dense(CPU, 5, 7)
    assert len(calls) == asked
    assert mask.flex(CPU) is mask.flex(CPU)


@pytest.mark.parametrize("form", ["dense", "flex"])
def test_a_query_that_sees_nothing_is_refused(form):
    mask = AttentionMask(lambda b, h, q, kv: kv < q - 4, 300, 300)
    make = {"dense": mask.dense, "flex": mask.flex}[form]
    with pytest.raises(ValueError, match="query 0 see no key.*Let every token see itself"):
        make(CPU)


def test_the_blind_query_is_named_beyond_the_first_rows(monkeypatch):
    monkeypatch.setattr(attention_mask, "_CHUNK", 1)
    mask = AttentionMask(lambda b, h, q, kv: (kv <= q) & (q != 222), 300, 300)
    with pytest.raises(ValueError, match="query 222 see no key"):
        mask.flex(CPU)


RULES = {  # of a table [samples, heads, keys]
    "neither": lambda b, h, q, kv, table: q >= kv,
    "sample": lambda b, h, q, kv, table: (q >= kv) & table[b, 0, kv],
    "head": lambda b, h, q, kv, table: (q >= kv) & table[0, h, kv],
    "both": lambda b, h, q, kv, table: (q >= kv) & table[b, h, kv],
    "arithmetic": lambda b, h, q, kv, table: (kv <= q + b) & (kv >= q - 100 * h),
}


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([5, 128, 200]))
def test_a_rule_of_sample_and_head_is_one_mask_for_each(rule, batch, heads, tokens):
    table = torch.rand(batch, heads, tokens, generator=torch.Generator().manual_seed(0)) < 0.5
    table[..., 0] = True
    mask = AttentionMask(RULES[rule], tokens, tokens, (table,))
    index = torch.arange(tokens)
    want = torch.stack(
        [
            torch.stack(
                [RULES[rule](b, h, index[:, None], index, table) for h in range(heads)],
            )
            for b in range(batch)
        ]
    )
    assert_bitwise_equal(mask.dense(CPU, batch, heads).expand(want.shape), want)
    assert mask.dense(CPU, batch, heads).numel() == tokens**2 * (
        (batch if rule in ("sample", "both", "arithmetic") else 1)
        * (heads if rule in ("head", "both", "arithmetic") else 1)
    )
    theirs = create_block_mask(
        lambda b, h, q, kv: RULES[rule](b, h, q, kv, table), batch, heads, tokens, tokens, "cpu"
    )
    ours = mask.flex(CPU, batch, heads)
    assert_bitwise_equal(ours.to_dense().expand(theirs.shape[:2] + (-1, -1)), theirs.to_dense())
    full = "full_kv_num_blocks"
    assert_bitwise_equal(vars(ours)[full].expand(batch, heads, -1), vars(theirs)[full])


def test_the_blind_query_is_named_with_its_sample_and_head():
    mask = AttentionMask(lambda b, h, q, kv: (q >= kv) & ((h < 2) | (q < 4)), 6, 6)
    with pytest.raises(ValueError, match="query 4 of sample 0 and head 2 see no key"):
        mask.dense(CPU, 2, 3)
    mask.dense(CPU, 2, 2)


@pytest.mark.parametrize("form", ["dense", "flex"])
def test_a_rule_that_returns_no_mask_is_refused(form):
    mask = AttentionMask(lambda b, h, q, kv: q - kv, 6, 6)
    with pytest.raises(ValueError, match="returns a boolean tensor, got torch.int64.*q >= kv"):
        {"dense": mask.dense, "flex": mask.flex}[form](CPU)


def test_a_table_that_hides_everything_from_a_run_is_refused():
    table = torch.tensor([[[True, False], [True, True]], [[True, True], [False, False]]])
    with pytest.raises(ValueError, match="query 3 of sample 1 and head 0 see no key"):
        TableMask(table, 3)
    TableMask(table.to("meta"), 3)


def test_masked_attention_refuses_fewer_samples_than_tables():
    q = torch.randn(1, 6, 2, 8)
    with pytest.raises(ValueError, match="TableMask of 2 samples under a batch of 1"):
        masked_attention(q, q, q, TableMask(torch.ones(2, 2, 2, dtype=torch.bool), 3))


def test_a_table_of_samples_serves_a_multiple_of_them():
    table = torch.tensor([[[True, False], [True, True]], [[True, True], [False, True]]])
    mask = TableMask(table, 128)
    assert_bitwise_equal(mask.dense(CPU, 4), mask.dense(CPU).repeat(2, 1, 1, 1))
    assert_bitwise_equal(mask.flex(CPU, 4).to_dense(), mask.flex(CPU).to_dense().repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="TableMask of 2 samples under a batch of 3.*multiple"):
        mask.dense(CPU, 3)
