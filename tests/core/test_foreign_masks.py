"""Masks in others' forms mean what an ``AttentionMask`` of the same rule means."""

import warnings

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from longlive_core.attention import AttentionMask, attention, masked_attention

CPU_BACKENDS = ["sdpa", "reference", "auto"]
BATCH, HEADS, KEY_HEADS, TOKENS = 2, 4, 2, 140
START = torch.tensor([[0, 30, 0, 9], [70, 0, 3, 0]])  # the first key of each sample and head


def rule(b, h, q, kv):
    return (kv <= q) & ((kv >= START[b, h]) | (kv == q))


def operands(grad=False):
    generator = torch.Generator().manual_seed(0)
    sizes = [(BATCH, TOKENS, heads, 8) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(size, generator=generator).requires_grad_(grad) for size in sizes]


def visible():
    b, h, q, kv = (torch.arange(n) for n in (BATCH, HEADS, TOKENS, TOKENS))
    return rule(b[:, None, None, None], h[:, None, None], q[:, None], kv)


def dense_math(q, k, v, seen, scale):
    """Softmax attention, a sample and a head at a time."""
    out = torch.empty_like(q)
    for b in range(BATCH):
        for h in range(HEADS):
            scores = scale * q[b, :, h] @ k[b, :, h // 2].T
            weights = scores.masked_fill(~seen[b, h], -torch.inf).softmax(-1)
            out[b, :, h] = weights @ v[b, :, h // 2]
    return out


FORMS = {
    "AttentionMask": lambda: AttentionMask(rule, TOKENS, TOKENS),
    "tensor": visible,
    "BlockMask": lambda: create_block_mask(rule, BATCH, HEADS, TOKENS, TOKENS, "cpu"),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_dense_math_with_gradients(form, backend):
    q, k, v = operands(grad=True)
    got = masked_attention(q, k, v, FORMS[form](), scale=0.2, backend=backend)
    want = dense_math(q, k, v, visible(), 0.2)
    torch.testing.assert_close(got, want)
    upstream = torch.randn_like(want)
    pairs = zip(
        torch.autograd.grad(got, (q, k, v), upstream),
        torch.autograd.grad(want, (q, k, v), upstream),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_flex_attention_reads_the_tiles_as_dense_math():
    q, k, v = operands()
    tiles = AttentionMask(rule, TOKENS, TOKENS).flex(q.device, BATCH, HEADS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is slow when not compiled
        got = flex_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), block_mask=tiles, scale=0.2, enable_gqa=True
        )
    torch.testing.assert_close(got.transpose(1, 2), dense_math(q, k, v, visible(), 0.2))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_a_tensor_for_all_samples_and_heads(backend):
    q, k, v = operands()
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    got = masked_attention(q, k, v, causal, backend=backend)
    want = dense_math(q, k, v, causal.expand(BATCH, HEADS, -1, -1), 8**-0.5)
    torch.testing.assert_close(got, want)


def test_no_mask_is_attention():
    q, k, v = operands()
    torch.testing.assert_close(
        masked_attention(q, k, v, None, scale=0.3), attention(q, k, v, scale=0.3)
    )


def test_tiles_say_what_is_hidden_and_what_no_rule_hides():
    """Tiles of a BlockMask count for more than its rule, as in FlexAttention."""
    tiles = BlockMask.from_kv_blocks(
        torch.tensor([[[1, 1]]], dtype=torch.int32),
        torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.int32),
        torch.tensor([[[0, 1]]], dtype=torch.int32),
        torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.int32),
        BLOCK_SIZE=128,
        mask_mod=lambda b, h, q, kv: kv <= q,
        seq_lengths=(TOKENS, TOKENS),
    )
    seen = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    seen[128:, :128] = True
    q, k, v = operands()
    want = dense_math(q, k, v, seen.expand(BATCH, HEADS, -1, -1), 8**-0.5)
    torch.testing.assert_close(masked_attention(q, k, v, tiles), want)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(TOKENS, TOKENS), r"or None, got torch.float32 \[140, 140\].*mask > -inf"),
        (torch.ones(2, TOKENS, TOKENS, dtype=torch.bool), r"got torch.bool \[2, 140, 140\]"),
        (torch.ones(3, 1, TOKENS, TOKENS, dtype=torch.bool), "for 2 samples and 4 query heads"),
        (torch.ones(9, TOKENS, dtype=torch.bool), "140 queries and 140 keys.*for 9 queries"),
        (torch.zeros(TOKENS, TOKENS, dtype=torch.bool), "query 0 see no key"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        masked_attention(*operands(), mask)
