"""The meaning of NVFP4: every code under every scale, and what holds at the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.nvfp4 import NVFP4Tensor, QuantizeConfig, ScaleRule, quantize, reference
from longlive_core.nvfp4.format import E2M1_VALUES
from longlive_core.testing import assert_bitwise_equal, ulp_distance
from tests.core.nvfp4.matrices import CONFIGS, KINDS, configs, make, matrices

EVERY_CODE = torch.arange(16, dtype=torch.uint8).view(8, 2)
EVERY_CODE = (EVERY_CODE[:, 0] | EVERY_CODE[:, 1] << 4).repeat(256, 1)  # 16 codes, 256 times
E4M3_BYTE = {256: 0x78, 448: 0x7E}
EVERY_SCALE = torch.arange(256, dtype=torch.uint8).view(256, 1).view(torch.float8_e4m3fn)


def e4m3(byte: int) -> float:
    """What an E4M3 byte means, from the definition of the format."""
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if byte & 0x80 else size


def test_every_code_under_every_scale():
    got = reference.products(EVERY_CODE, EVERY_SCALE)
    for byte in range(256):
        for code in range(16):
            want = (-1 if code & 8 else 1) * E2M1_VALUES[code & 7] * e4m3(byte)
            value = got[byte, code].item()
            assert value == want or (math.isnan(value) and math.isnan(want)), (byte, code)


def test_products_are_exact_in_bfloat16_and_float16():
    products = reference.products(EVERY_CODE, EVERY_SCALE)
    for dtype in (torch.bfloat16, torch.float16):
        assert_bitwise_equal(products.to(dtype).float().nan_to_num(), products.nan_to_num())


@pytest.mark.parametrize("amax", [1e-30, 0.37, 1.0, 1e30])
@pytest.mark.parametrize("config", CONFIGS[::2], ids=str)
def test_every_code_under_every_scale_reads_back_as_itself(amax, config):
    """For scales that are normal numbers; where two scales write the same values, either may."""
    amax = torch.tensor(amax)
    scales = EVERY_SCALE[8 : E4M3_BYTE[config.bound] + 1]
    codes = EVERY_CODE[: len(scales)]
    if config.rule is ScaleRule.AMAX_4:  # it never writes a 6
        codes = torch.where(codes == 0x76, 0x66, torch.where(codes == 0xFE, 0xEE, codes))
    values = reference.dequantize(codes, scales, amax, config)
    got, got_scales = reference.quantize(values, amax, config)
    assert_bitwise_equal(reference.dequantize(got, got_scales, amax, config) + 0.0, values + 0.0)
    if not config.rule.adaptive:
        assert_bitwise_equal(got_scales, scales)
        assert_bitwise_equal(got, torch.where(codes == 0x98, 0x90, codes))  # -0.0 reads back as 0


@given(matrices(step=16, dtypes=(torch.float32,)), configs(), st.integers(-90, 90))
def test_quantizing_what_was_dequantized_changes_nothing(x, config, exponent):
    if config.rule is ScaleRule.FOUR_OVER_SIX_MSE:
        exponent //= 2  # squares of errors must stay within float32
    q = quantize(x * 2.0**exponent, config)
    values = q.dequantize()
    normal = (q.block_scales.float() >= 2**-6)[: x.shape[0]]
    again = quantize(values, config, amax=q.amax)
    changed = (again.dequantize() != values).unflatten(1, (-1, 16)).any(-1)
    assert not (changed & normal).any()
    if normal.all() and not config.rule.adaptive:
        own = quantize(values, config)  # its amax may be off by a rounding or two, its bits not
        assert_bitwise_equal(own.codes & 0x77, q.codes & 0x77)
        assert_bitwise_equal(own.block_scales, q.block_scales)
        assert ulp_distance(own.amax, q.amax).item() <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_value_is_further_off_than_half_a_step(kind, config):
    x = make(kind, 32, 96)
    q = quantize(x, config)
    step = q.block_scales.double().repeat_interleave(16, -1)
    step = step * (x.abs().max().double() / config.full_scale)
    y = q.dequantize().double()
    ratio = (x.double().abs() / step).nan_to_num(0)
    gap = torch.where(ratio < 2, 0.5, torch.where(ratio < 4, 1.0, 2.0))
    # beyond 6 it saturates: a scale may round down, by one part in 17 or to nothing
    allowed = gap / 2 * step + torch.where(ratio > 6, x.double().abs() - 6 * step, 0)
    allowed = torch.where(step == 0, x.double().abs(), allowed)
    assert ((y - x.double()).abs() <= allowed * (1 + 1e-6)).all()


def test_squared_errors_beyond_float32_keep_six():
    """As in the original: below about 1e-20 and above 1e18 MSE cannot tell its choices apart."""
    x = make("normal", 8, 64)
    mse, mae = (
        QuantizeConfig(rule=rule)
        for rule in (ScaleRule.FOUR_OVER_SIX_MSE, ScaleRule.FOUR_OVER_SIX_MAE)
    )
    for exponent, same in ((-40, True), (40, True), (-90, False), (90, False)):
        scaled = x * 2.0**exponent
        assert torch.equal(quantize(scaled, mse).codes, quantize(x, mse).codes) == same
        assert_bitwise_equal(quantize(scaled, mae).codes, quantize(x, mae).codes)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_zeros_are_zero_in_every_part(config):
    for zeros in (torch.zeros(2, 32), -torch.zeros(2, 32)):
        q = quantize(zeros, config)
        assert q.amax.item() == 0
        assert not q.codes.any()
        assert not q.block_scales.view(torch.uint8).any()
        assert_bitwise_equal(q.dequantize(), torch.zeros(2, 32))


@pytest.mark.parametrize("value", [1e-30, 1e-8, 0.37, 1.0, 448.0, 1e30])
@pytest.mark.parametrize("rule", ScaleRule)
def test_a_constant_is_kept_to_float_precision(value, rule):
    x = torch.full((3, 48), value)
    y = quantize(x, QuantizeConfig(rule=rule)).dequantize()
    torch.testing.assert_close(y, x, rtol=3e-7, atol=0)


def test_the_smallest_numbers_that_float32_has():
    """Below about 8e-36 the encode scale saturates; what is left is finite and never larger."""
    x = make("normal", 4, 32).abs() * 1e-40
    decoded = quantize(x).dequantize()
    assert decoded.isfinite().all()
    assert (decoded <= 1.1 * x.max()).all()


@pytest.mark.parametrize("rule", [ScaleRule.AMAX_6, ScaleRule.AMAX_4])
def test_below_the_smallest_encode_scale_what_is_read_back_is_too_small(rule):
    """By the ratio of amax to R / FLT_MAX."""
    x, config = make("normal", 8, 64), QuantizeConfig(rule=rule)
    x = x / x.abs().max()
    least = config.full_scale / torch.finfo(torch.float32).max
    for times, ratio in ((2.0, 1.0), (0.25, 0.25)):
        back = quantize(x * (least * times), config).dequantize() / (least * times)
        assert ((back * x).sum() / (x * x).sum()).item() == pytest.approx(ratio, rel=0.02)


def test_a_block_too_small_for_any_scale_decodes_to_zero_with_saturated_codes():
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16:18] = 1.0, torch.tensor([1e-9, -1e-9])
    q = quantize(x)
    assert q.block_scales.float().tolist() == [[448, 0]]
    assert q.codes[0, 8].item() == 0xF7
    assert q.dequantize()[0, 16:].abs().max() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ScaleRule)
def test_one_bad_value_makes_the_whole_tensor_nan(bad, rule):
    x = make("normal", 4, 32)
    x[2, 5] = bad
    q = quantize(x, QuantizeConfig(rule=rule))
    assert q.amax.isnan()
    assert (q.block_scales.view(torch.uint8) == 0x7F).all()
    assert not q.codes.any()
    assert q.dequantize().isnan().all()


def test_with_an_amax_given_nan_stays_in_its_block_and_infinity_saturates():
    x = make("normal", 2, 48)
    x[0, 3], x[1, 20] = math.nan, -math.inf
    amax = torch.tensor(4.0)
    q = quantize(x, amax=amax)
    bad = q.dequantize().isnan()
    assert bad[0, :16].all()
    assert bad.sum() == 16
    assert q.block_scales[1, 1].float() == 448
    assert q.dequantize()[1, 20] == -4.0


def test_values_beyond_a_given_amax_saturate():
    x = torch.tensor([[8.0, -5.0, 1.0] + [0.0] * 13])
    assert quantize(x, amax=torch.tensor(4.0)).dequantize()[0, :3].tolist() == [4.0, -4.0, 1.0]


def test_a_larger_amax_only_coarsens():
    x = make("normal", 8, 64)
    near, far = (quantize(x, amax=x.abs().max() * k).dequantize() for k in (1, 64))
    errors = [((y - x) ** 2).mean() for y in (near, far)]
    assert errors[0] < errors[1] * 1.05 < errors[0] * 1.3


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_groups_of_rows_are_matrices_of_their_own(groups, rows, seed):
    x = make("row scales", groups * rows, 32, seed)
    amax = x.view(groups, -1).abs().amax(1)
    q = quantize(x, amax=amax)
    parts = [quantize(part) for part in x.chunk(groups)]
    assert_bitwise_equal(q.codes, torch.cat([part.codes for part in parts]))
    assert_bitwise_equal(q.dequantize(), torch.cat([part.dequantize() for part in parts]))
    assert isinstance(q, NVFP4Tensor)


@given(matrices(max_rows=40, max_cols=64), st.sampled_from(ScaleRule))
def test_square_blocks_share_a_scale_and_a_padded_edge_is_zero(x, rule):
    q = quantize(x, QuantizeConfig(rule=rule, block=(16, 16)))
    tiles = q.block_scales.view(torch.uint8).unflatten(0, (-1, 16))
    assert (tiles == tiles[:, :1]).all()
    whole = reference.dequantize(q.codes, q.block_scales, q.amax, q.config)
    assert not whole[x.shape[0] :].any()
    assert not whole[:, x.shape[1] :].any()
