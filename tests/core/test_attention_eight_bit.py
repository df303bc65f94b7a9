"""Attention in eight bits: its error, what smoothing keys does, and who may take it."""

import pytest
import torch

from longlive_core.attention import (
    ATTENTION,
    ATTENTION_OVER_CODES,
    attention,
    attention_over_codes,
)
from longlive_core.attention_eight_bit import emulated
from longlive_core.backends import BackendUnavailable, Request
from longlive_core.eight_bit import EncodedHeads, encode_heads

ROWS = ("fa3-fp8", "fa3-fp8-smooth")


def error(got: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> float:
    want = attention(q.float(), k.float(), v.float(), backend="reference")
    return float((got.float() - want).norm() / want.norm())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("smooth", [False, True])
def test_the_error_on_random_numbers_is_that_of_three_bits_of_mantissa(smooth):
    q, k, v = (normal(1, 256, 2, 64, seed=seed) for seed in range(3))
    assert 0.01 < error(emulated(q, k, v, 0.125, smooth=smooth), q, k, v) < 0.06


def test_a_query_that_has_found_its_key_gets_its_value():
    """Scores far apart: the sum has one weight, and the error is that of one value."""
    k, v = normal(1, 128, 2, 64), normal(1, 128, 2, 64, seed=1)
    q = 8 * k
    assert error(emulated(q, k, v, 0.125), q, k, v) < 0.04


def test_keys_with_much_in_common_are_rounded_less_without_it():
    q, v = normal(1, 256, 2, 64), normal(1, 256, 2, 64, seed=1)
    k = normal(1, 256, 2, 64, seed=2) + 20 * normal(1, 1, 2, 64, seed=3)
    plain, smooth = (error(emulated(q, k, v, 0.125, smooth=s), q, k, v) for s in (False, True))
    assert smooth < 0.06 < 4 * smooth < plain


def test_what_all_keys_have_in_common_changes_nothing_when_it_is_left_out():
    """Smooth means over tokens: softmax does not see it, so nothing has to be put back."""
    q, k, v = (normal(1, 64, 1, 32, seed=seed) for seed in range(3))
    moved = k + normal(1, 1, 1, 32, seed=4)
    got = emulated(q, k, v, 0.2, smooth=True)
    torch.testing.assert_close(emulated(q, moved, v, 0.2, smooth=True), got, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("row", ROWS)
def test_auto_takes_eight_bits_for_high_quality_alone(row):
    backend = ATTENTION.named(row)
    assert backend.quality == "high"
    request = Request(device=torch.device("cpu"), dtype=torch.bfloat16, head_dim=64, quality="high")
    assert ATTENTION.explain(request)[row] == "it needs a CUDA device, not cpu"
    assert ATTENTION.receipt(request).backend == "sdpa"


def encoded(*tensors: torch.Tensor) -> list[EncodedHeads]:
    return [EncodedHeads(*encode_heads(x)) for x in tensors]


def test_over_codes_it_is_the_same_but_for_who_encodes():
    q, k, v = (normal(2, tokens, 3, 16, seed=tokens) for tokens in (5, 9, 9))
    got = attention_over_codes(q, *encoded(k, v))
    assert torch.equal(got, emulated(q, k, v, 0.25))
    assert torch.equal(attention_over_codes(q, *encoded(k, v), scale=0.1), emulated(q, k, v, 0.1))
    with pytest.raises(BackendUnavailable, match="attention_over_codes.*needs a CUDA device"):
        attention_over_codes(q, *encoded(k, v), backend="fa3-fp8")


def test_codes_that_do_not_fit_are_refused():
    q, k, v = (normal(2, tokens, 3, 16, seed=tokens) for tokens in (5, 9, 8))
    for keys, values in ((k, v), (k[:, :, :1], k[:, :, :1]), (k[:1], k[:1]), (k[:, :0], k[:, :0])):
        codes = [
            EncodedHeads(x.to(torch.float8_e4m3fn), torch.ones(x.shape[::2]))
            for x in (keys, values)
        ]
        with pytest.raises(ValueError, match="differ in tokens alone, keys and values in nothing"):
            attention_over_codes(q, *codes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention-3 needs a CUDA device")
def test_the_kernel_over_codes_has_the_bytes_of_the_one_that_encodes():
    q, k, v = (normal(2, n, 3, 128, seed=n).cuda().bfloat16() for n in (300, 700, 701))
    v = v[:, :700]
    request = Request(device=q.device, dtype=q.dtype, head_dim=128, quality="high")
    if not ATTENTION.explain(request)["fa3-fp8"].startswith("usable"):
        pytest.skip(ATTENTION.explain(request)["fa3-fp8"])
    assert ATTENTION_OVER_CODES.receipt(request).backend == "fa3-fp8"
    got = attention_over_codes(q, *encoded(k, v))
    assert torch.equal(got, attention(q, k, v, backend="fa3-fp8"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention-3 needs a CUDA device")
@pytest.mark.parametrize("row", ROWS)
def test_the_kernel_computes_what_is_emulated(row):
    q, k, v = (normal(2, n, 3, 128, seed=n).cuda().bfloat16() for n in (300, 700, 701))
    v = v[:, :700]
    request = Request(device=q.device, dtype=q.dtype, head_dim=128, quality="high")
    if not ATTENTION.explain(request)[row].startswith("usable"):
        pytest.skip(ATTENTION.explain(request)[row])
    got = attention(q, k, v, backend=row).float()
    want = emulated(q, k, v, 128**-0.5, smooth=row.endswith("smooth")).float()
    assert (got - want).norm() < 0.02 * want.norm()
    assert error(got, q, k, v) < 0.07
    assert ATTENTION.receipt(request).backend == "fa3-fp8"
    plain = Request(device=q.device, dtype=q.dtype, head_dim=128)
    assert ATTENTION.receipt(plain).backend not in ROWS
