"""Wire codecs: bytes as announced, errors within the format's bounds, one meaning for any ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.float8 import Float8WireCodec
from longlive_core.nvfp4 import NVFP4WireCodec, ScaleRule
from longlive_core.sequence_parallel import (
    BalancedPartition,
    BalancedSP,
    PlainWireCodec,
    SequenceGroup,
    WireCodec,
)
from tests.core.sequence_parallel import on_ranks
from tests.processes import Ranks

CODECS = [PlainWireCodec(), Float8WireCodec(), NVFP4WireCodec()]
ROUNDING = [Float8WireCodec(), NVFP4WireCodec(), NVFP4WireCodec(rule=ScaleRule.AMAX_6)]
DTYPES = [torch.float32, torch.bfloat16]


def traveled(codec: WireCodec, message: torch.Tensor) -> torch.Tensor:
    return codec.decode(codec.encode(message), message.dtype)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(tokens=st.integers(1, 3), heads=st.integers(1, 3), scale=st.integers(-20, 20))
def test_a_message_may_be_cut_up_before_or_after_it_is_encoded(codec, dtype, tokens, heads, scale):
    assert isinstance(codec, WireCodec)
    whole = torch.randn(2, 2 * tokens, heads + 1, 16).to(dtype) * 2.0**scale
    part = whole[:, tokens:, :heads]
    of_whole, of_part = codec.encode(whole)[:, tokens:, :heads], codec.encode(part)
    assert torch.equal(of_whole, of_part)
    assert torch.equal(codec.decode(of_whole, dtype), traveled(codec, part.contiguous()))
    assert traveled(codec, part).dtype == dtype


def test_a_single_row_of_any_length_travels_in_eight_bits():
    message = torch.arange(1.0, 19.0).view(1, 1, 1, 18)
    torch.testing.assert_close(traveled(Float8WireCodec(), message), message, rtol=1 / 16, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_plain_wire_is_exact(dtype):
    message = torch.randn(1, 3, 2, 5).to(dtype)
    assert torch.equal(traveled(PlainWireCodec(), message), message)


@pytest.mark.parametrize("codec", ROUNDING, ids=repr)
@given(scale=st.integers(-30, 30), seed=st.integers(0, 99))
def test_errors_stay_within_a_step_of_the_format(codec, scale, seed):
    """E4M3 is within 1/16 of a number; E2M1 within 0.18 of the largest of its 16 neighbors."""
    message = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(seed)) * 2.0**scale
    error = (traveled(codec, message) - message).abs()
    row = message.abs().amax(-1, keepdim=True)
    if isinstance(codec, Float8WireCodec):
        assert (error <= message.abs() / 16 + row * 2**-17).all()
    else:
        blocks = message.unflatten(-1, (-1, 16))
        bound = 0.18 * blocks.abs().amax(-1, keepdim=True) + row[..., None] * 2**-12
        assert (error.unflatten(-1, (-1, 16)) <= bound).all()


@pytest.mark.parametrize(("codec", "most"), [(Float8WireCodec(), 8e-4), (NVFP4WireCodec(), 9e-3)])
def test_the_squared_error_of_gaussians_is_the_formats(codec, most):
    message = torch.randn(8, 64, 2, 128)
    error = (traveled(codec, message) - message).square().mean() / message.square().mean()
    assert most / 2 < error < most


@pytest.mark.parametrize("codec", ROUNDING, ids=repr)
def test_zeros_arrive_as_zeros_and_what_is_not_finite_is_seen(codec):
    message = torch.zeros(3, 2, 16)
    assert torch.equal(traveled(codec, message), message)
    for value in (torch.nan, torch.inf):
        message[1, 0, 3] = value
        arrived = traveled(codec, message)
        assert arrived[1, 0, 3].isnan()
        assert torch.equal(arrived[[0, 2]], torch.zeros(2, 2, 16))


def test_four_bits_are_at_least_3_4_times_fewer_bytes_than_bfloat16():
    message = torch.randn(1, 440, 6, 128).bfloat16()  # heads of the 5B model
    assert message.nbytes / NVFP4WireCodec().encode(message).nbytes > 3.5
    assert message.nbytes / Float8WireCodec().encode(message).nbytes > 1.9


def test_heads_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="heads of 24 channels.*multiple of 16"):
        NVFP4WireCodec().encode(torch.zeros(1, 2, 3, 24))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("shape", [(1, 0, 2, 16), (0, 3, 2, 32), (1, 3, 0, 16)])
def test_no_rows_travel_as_no_bytes(codec, shape):
    message = torch.zeros(shape)
    assert codec.encode(message).numel() == 0
    assert traveled(codec, message).shape == shape


@pytest.mark.parametrize("codec", ROUNDING[:2], ids=repr)
def test_a_single_number_and_numbers_that_are_none_are_refused(codec):
    with pytest.raises(ValueError, match=r"of shape \(\)"):
        codec.encode(torch.tensor(1.0))


@pytest.mark.parametrize("codec", ROUNDING[:2], ids=repr)
def test_what_arrives_does_not_depend_on_the_number_of_ranks(ranks: Ranks, codec):
    want = traveled(codec, on_ranks.wide())
    for size in (2, 3, 4):
        parts = ranks(size, on_ranks.over_a_wire, codec)
        assert torch.equal(torch.cat([heads for heads, _ in parts], 2), want)
        assert torch.equal(torch.cat([tokens for _, tokens in parts], 1), traveled(codec, want))


def test_an_exchange_counts_3_4_times_fewer_bytes(ranks: Ranks):
    (plain, *_), (packed, *_) = (
        ranks(2, on_ranks.bytes_over_a_wire, codec) for codec in (None, NVFP4WireCodec())
    )
    assert plain / packed > 3.5


@pytest.mark.parametrize("codec", ROUNDING[:2], ids=repr)
def test_one_rank_rounds_only_where_it_is_asked_to(ranks: Ranks, codec):
    """Without a word one rank sends nothing and rounds nothing; with it, it has all ranks' bits."""
    (exact,) = ranks(1, on_ranks.over_a_wire, codec)
    assert all(torch.equal(x, on_ranks.wide()) for x in exact)
    (rounded,) = ranks(1, on_ranks.alone, codec)
    parts = ranks(2, on_ranks.over_a_wire, codec)
    assert torch.equal(rounded[0], torch.cat([heads for heads, _ in parts], 2))
    assert torch.equal(rounded[1], torch.cat([tokens for _, tokens in parts], 1))
    assert not torch.equal(rounded[0], exact[0])


def test_one_rank_that_rounds_carries_no_gradient():
    partition = BalancedPartition(frames=2, ranks=1, tokens_per_frame=1, copies=1)
    how = {"heads": 2, "wire": NVFP4WireCodec(), "round_alone": True}
    sp = BalancedSP(SequenceGroup(), partition, **how)
    with pytest.raises(ValueError, match="carries no gradient"):
        sp.start(torch.randn(1, 2, 2, 16, requires_grad=True))
