"""Scales: the formulas by hand, in float64, and what must hold of every rule."""

import functools
import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, reference
from longlive_core.nvfp4.scale_rules import (
    FLOAT32_MAX,
    block_error,
    block_scales,
    decode_scale,
    divide,
    encode_scale,
    ordered_sum,
)
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import configs, make

ADAPTIVE = [rule for rule in ScaleRule if rule.adaptive]


def as_blocks(x):
    return x.view(x.shape[0], -1, 16), x.abs().max().expand(x.shape[0], 1).contiguous()


def rounded(scales):
    return scales.to(torch.float8_e4m3fn).float()


def test_division_is_rounded_once():
    """PyTorch's ``number / tensor`` is a multiplication by the reciprocal, which rounds twice."""
    x = torch.rand(100_000) + 0.5
    exact = (2688.0 / x.double()).float()
    assert_bitwise_equal(divide(2688.0, x), exact)
    assert_bitwise_equal(divide(x, 6.0), (x.double() / 6.0).float())
    assert not torch.equal(x.reciprocal() * 2688.0, exact)


@pytest.mark.parametrize("rule", [ScaleRule.AMAX_6, ScaleRule.AMAX_4])
def test_a_block_as_large_as_the_matrix_gets_the_bound(rule):
    blocks, amax = as_blocks(make("normal", 8, 64))
    config = QuantizeConfig(rule=rule)
    scales = block_scales(blocks, amax, config).float()
    assert scales.max() == 448
    ideal = blocks.abs().amax(-1).double() / amax.double() * 448
    assert ((scales.double() - ideal).abs() <= ideal / 16).all()


def test_the_order_of_operations():
    """At ties of bfloat16 values the two orders give other scales: each rule has its own."""
    amax = torch.arange(1.0, 2.0, 2**-7)[:, None]
    largest = torch.arange(0.5, 1.0, 2**-8)[None, :].expand(128, 128).contiguous()
    blocks = torch.cat((largest[..., None], torch.zeros(128, 128, 15)), dim=-1)
    encode = (2688.0 / amax.double()).float()
    by_reciprocal = (largest * (encode * torch.tensor(1 / 6, dtype=torch.float32))).clamp(max=448)
    by_division = ((largest.double() / 6.0).float() * encode).clamp(max=448)
    differ = rounded(by_reciprocal) != rounded(by_division)
    assert differ.any()
    got = block_scales(blocks, amax, QuantizeConfig())
    assert_bitwise_equal(got, by_reciprocal.to(torch.float8_e4m3fn))
    mse = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, bound=448)
    six, four = (scale.clamp(max=448) for scale in (by_division, by_division * 1.5))
    got = block_scales(blocks, amax, mse).float()
    six, four = rounded(six), rounded(four)
    assert ((got == six) | (got == four)).all()
    assert (got == six)[differ].any()


@pytest.mark.parametrize("rule", ADAPTIVE)
def test_the_chosen_scale_leaves_no_larger_error_than_either(rule):
    blocks, amax = as_blocks(make("row scales", 32, 128))
    config = QuantizeConfig(rule=rule)
    chosen = block_scales(blocks, amax, config)
    base = divide(blocks.abs().amax(-1), 6.0) * encode_scale(amax, config)
    six, four = (v.clamp(max=448).to(torch.float8_e4m3fn) for v in (base, base * 1.5))
    errors = [block_error(blocks, s, amax, config) for s in (chosen, six, four)]
    assert_bitwise_equal(errors[0], torch.minimum(errors[1], errors[2]))
    picked_four = chosen.float() != six.float()
    assert 0.1 < picked_four.float().mean() < 0.9
    assert (errors[2] < errors[1])[picked_four].all(), "ties keep 6"


@pytest.mark.parametrize(
    ("rule", "measure"),
    [
        (ScaleRule.FOUR_OVER_SIX_MSE, lambda e: (e * e).sum(-1)),
        (ScaleRule.FOUR_OVER_SIX_MAE, lambda e: e.abs().sum(-1)),
        (ScaleRule.FOUR_OVER_SIX_ABS_MAX, lambda e: e.abs().amax(-1)),
    ],
)
def test_the_error_is_that_of_the_decoded_values(rule, measure):
    x = make("normal", 16, 64)
    blocks, amax = as_blocks(x)
    config = QuantizeConfig(rule=rule)
    codes, scales = reference.quantize(x, amax[0, 0], config)
    decoded = reference.dequantize(codes, scales, amax[0, 0], config).double()
    want = measure((decoded - x.double()).view(blocks.shape))
    got = block_error(blocks, scales, amax, config).double()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=2e-7)  # decoding multiplies by 1 / R


def test_no_error_at_all_keeps_six():
    """A block of one value is exact either way where 1.5 times its scale is a scale too."""
    blocks = torch.zeros(1, 1, 16)
    blocks[..., 0] = 6.0
    config = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
    amax = torch.full((1, 1), 6.0)
    assert block_scales(blocks, amax, config).float().item() == 256


@given(configs(), st.integers(-20, 20), st.integers(0, 1000))
def test_a_power_of_two_changes_only_amax(config, exponent, seed):
    x = make("row scales", 8, 48, seed)
    for a, b in zip(as_blocks(x), as_blocks(x * 2.0**exponent), strict=True):
        assert a.shape == b.shape
    got = block_scales(*as_blocks(x * 2.0**exponent), config)
    assert_bitwise_equal(got, block_scales(*as_blocks(x), config))


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-38, 1e-30, 1.0, 1e30, 3e38])
def test_encode_and_decode_scales_stay_finite(amax):
    config, amax = QuantizeConfig(), torch.tensor(amax)
    encode, decode = encode_scale(amax, config), decode_scale(amax, config)
    assert encode.isfinite() and encode > 0
    assert decode.isfinite()


def test_the_encode_scale_of_nothing_is_one_and_of_too_little_the_largest():
    config = QuantizeConfig()
    amax = torch.tensor([0.0, 1e-45, 7.8e-36, 2688.0])
    assert encode_scale(amax, config).tolist() == [1.0, FLOAT32_MAX, FLOAT32_MAX, 1.0]
    assert encode_scale(torch.tensor(8e-36), config) < FLOAT32_MAX


def test_scales_below_e4m3_are_subnormal_then_zero():
    blocks = torch.zeros(1, 6, 16)
    blocks[0, :, 0] = torch.tensor([1.0, 2**-13, 2**-15, 2**-17, 2**-18, 2**-20])
    scales = block_scales(blocks, torch.ones(1, 1), QuantizeConfig()).float()
    assert scales.tolist() == [[448, 0.0546875, 0.013671875, 0.00390625, 0.001953125, 0]]


@given(st.sampled_from([16, 256]), st.integers(0, 10**6))
def test_a_sum_adds_vectors_of_eight_and_then_their_places(elements, seed):
    x = torch.randn(1, 3, elements, generator=torch.Generator().manual_seed(seed))

    def added(numbers):
        return functools.reduce(operator.add, numbers)

    def in_order(row):
        vectors = row.split(8)
        if elements == 256:
            vectors = [added(vectors[first::4]) for first in range(4)]
        return added(added(vectors).unbind())

    assert_bitwise_equal(ordered_sum(x), torch.stack([in_order(row) for row in x[0]])[None])


MSE, MAE, ABS_MAX = ADAPTIVE
NEAR_TIES = [  # rule, amax, a block, the scale that its errors choose, the other one
    (MSE, 32, "-5 -7 -15 -8 -14 -5 -7 -1 2 -11 -4 19 -10 0 20 12", 240, 160),
    (MSE, 34, "-19 1 -2 -4 8 10 -6 8 11 -19 -13 -9 1 18 4 -7", 144, 208),
    (MSE, 32, "-20 4 7 19 -13 -7 -19 -20 -16 -8 -12 18 0 10 1 2", 240, 160),
    (MSE, 32, "11 1 -6 0 -1 -6 17 -16 -13 -13 1 -5 9 14 20 9", 160, 240),
    (MAE, 37, "-5 -4 -13 -9 1 -3 -18 3 15 18 8 12 2 -18 7 -7", 192, 128),
    (MAE, 37, "-3 9 14 18 -16 -17 11 1 3 -9 19 -3 -6 6 14 7", 128, 192),
    (MAE, 37, "-2 12 -19 -13 10 8 -8 4 18 13 -1 15 19 7 -9 -11", 192, 128),
    (ABS_MAX, 28, "-18 19 -17 18 17 -2 -10 -20 -19 1 17 -20 19 6 18 -8", 176, 288),
    (ABS_MAX, 28, "-18 1 -6 -18 -17 -11 2 8 -10 -14 -11 -19 1 6 11 20", 176, 288),
]


@pytest.mark.parametrize(("rule", "amax", "block", "chosen", "other"), NEAR_TIES)
def test_near_ties_fall_as_in_the_original(rule, amax, block, chosen, other):
    """A reciprocal in place of the division, or another order of addition, takes the other scale.

    The scales are those that fouroversix 1.0.5 writes.
    """
    blocks = torch.tensor([float(number) for number in block.split()]).view(1, 1, 16)
    amax = torch.tensor([[float(amax)]])
    config = QuantizeConfig(rule=rule)
    assert block_scales(blocks, amax, config).item() == chosen
    scales = (torch.tensor([[float(s)]]).to(torch.float8_e4m3fn) for s in (chosen, other))
    errors = [block_error(blocks, scale, amax, config).item() for scale in scales]
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)
