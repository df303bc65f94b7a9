"""What belongs to the format: rules, their bounds, blocks; and what a quantized tensor carries."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from longlive_core.nvfp4 import (
    NVFP4Tensor,
    QuantizeConfig,
    ScaleRule,
    fake_quantize,
    quantize,
    tensor_amax,
)
from longlive_core.nvfp4.format import (
    E2M1_VALUES,
    SCALE_RULES,
    BlockError,
    config_from_text,
    config_text,
)
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import CONFIGS

FULL_SCALES = {
    (ScaleRule.AMAX_6, 448): 2688,
    (ScaleRule.AMAX_4, 448): 1792,
    (ScaleRule.FOUR_OVER_SIX_MSE, 256): 1536,
    (ScaleRule.FOUR_OVER_SIX_MSE, 448): 2688,
    (ScaleRule.FOUR_OVER_SIX_MAE, 256): 1536,
    (ScaleRule.FOUR_OVER_SIX_MAE, 448): 2688,
    (ScaleRule.FOUR_OVER_SIX_ABS_MAX, 256): 1536,
}


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("bound", [256, 448])
def test_each_rule_has_its_bounds(rule, bound):
    if (rule, bound) in FULL_SCALES:
        assert QuantizeConfig(rule=rule, bound=bound).full_scale == FULL_SCALES[rule, bound]
    else:
        with pytest.raises(ValueError, match=f"bound={bound}.*Leave bound out"):
            QuantizeConfig(rule=rule, bound=bound)


def test_a_bound_left_out_is_the_rules_default_and_compares_equal():
    assert QuantizeConfig() == QuantizeConfig(rule=ScaleRule.AMAX_6, bound=448)
    mse = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
    assert mse.bound == mse.largest_scale == 256
    assert hash(mse) == hash(QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, bound=256))


def test_the_rows_of_the_rules_are_what_files_hold():
    """Numbers and the original's names are in checkpoints: they may be added to, not changed."""
    assert {rule: (rule.row.number, rule.row.original) for rule in ScaleRule} == {
        "amax_6": (0, "static_6"),
        "amax_4": (1, "static_4"),
        "four_over_six_mse": (2, "mse"),
        "four_over_six_mae": (3, "mae"),
        "four_over_six_abs_max": (4, "abs_max"),
    }
    assert set(SCALE_RULES) == set(ScaleRule)
    for row in SCALE_RULES.values():
        assert len(row.targets) == (1 if row.error is None else 2), row
        assert set(row.targets) <= set(E2M1_VALUES), row
        assert {row.error for row in SCALE_RULES.values()} == {None, *BlockError}


@pytest.mark.parametrize("config", CONFIGS, ids=config_text)
def test_a_config_survives_as_one_text(config):
    for rounding in ("nearest", "stochastic"):
        rounded = replace(config, rounding=rounding)
        assert config_from_text(config_text(rounded)) == rounded


def test_a_text_that_is_no_config_is_refused():
    assert config_text(QuantizeConfig()) == "amax_6 448 1x16 nearest"
    with pytest.raises(ValueError, match="no scale rule 'amax_7'; did you mean 'amax_6'"):
        config_from_text("amax_7 448 1x16 nearest")


@pytest.mark.parametrize("rule", ScaleRule)
def test_a_config_survives_json(rule):
    config = QuantizeConfig(rule=rule, block=(16, 16), rounding="stochastic")
    assert QuantizeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def unchecked(**changed: object) -> QuantizeConfig:
    """As outside of these tests, which check annotations themselves."""
    config = object.__new__(QuantizeConfig)
    for name, value in {**asdict(QuantizeConfig()), **changed}.items():
        object.__setattr__(config, name, value)
    config.__post_init__()
    return config


def test_other_blocks_are_refused():
    with pytest.raises(ValueError, match=r"block=\(1, 32\).*\(1, 16\) or \(16, 16\)"):
        QuantizeConfig(block=(1, 32))


@pytest.mark.parametrize("block", [(16, 1), (1, 1), (32, 32), (16,), (1, 16, 1), (1, 16.0), ()])
def test_a_block_is_a_row_or_a_square_of_sixteen(block):
    with pytest.raises(ValueError, match=r"an NVFP4 block is \(1, 16\) or \(16, 16\)"):
        unchecked(block=block)


@pytest.mark.parametrize("block", [(True, 16), [1, 16], "1,16", None])
def test_a_block_of_another_type_is_refused_though_it_be_equal(block):
    with pytest.raises(ValueError, match=r"an NVFP4 block is \(1, 16\) or \(16, 16\)"):
        unchecked(block=block)


@pytest.mark.parametrize("rounding", ["", "Nearest", "even", None, 0])
def test_other_roundings_are_refused(rounding):
    with pytest.raises(ValueError, match="use 'nearest', or 'stochastic' for gradients"):
        unchecked(rounding=rounding)


def test_a_rule_chooses_between_two_targets_where_it_measures_an_error():
    for rule in ScaleRule:
        assert rule.adaptive == (len(rule.row.targets) == 2) == rule.value.startswith("four")
        assert rule.target == (4.0 if rule is ScaleRule.AMAX_4 else 6.0)
        assert rule.bounds[0] == QuantizeConfig(rule=rule).largest_scale


@pytest.mark.parametrize(
    ("shape", "block", "stored"),
    [
        ((4, 32), (1, 16), (4, 32)),
        ((4, 33), (1, 16), (4, 48)),
        ((2, 3, 7), (1, 16), (6, 16)),
        ((2, 3, 7), (16, 16), (16, 16)),
        ((50,), (1, 16), (1, 64)),
        ((17, 16), (16, 16), (32, 16)),
    ],
)
def test_leading_dimensions_are_rows_and_ragged_sizes_are_padded(shape, block, stored):
    rows, cols = stored
    q = quantize(torch.randn(shape), QuantizeConfig(block=block))
    assert q.shape == shape
    assert q.codes.shape == (rows, cols // 2)
    assert q.block_scales.shape == (rows, cols // 16)
    assert q.bytes == rows * cols // 2 + rows * cols // 16 + 4
    assert q.dequantize().shape == shape


def test_tensors_and_back():
    q = quantize(torch.randn(20, 40), QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MAE))
    saved = {name: tensor.clone() for name, tensor in q.tensors().items()}
    saved["block_scales"] = saved["block_scales"].view(torch.uint8)  # as some files keep them
    back = NVFP4Tensor.from_tensors(saved, config=q.config, shape=q.shape)
    assert_bitwise_equal(back.dequantize(), q.dequantize())
    assert_bitwise_equal(q.to("cpu").codes, q.codes)


def test_swizzled_or_missing_scales_are_refused():
    q = quantize(torch.randn(128, 64))
    with pytest.raises(ValueError, match=r"got \(128, 32\) and \(128, 8\).*undo a swizzle"):
        NVFP4Tensor(
            codes=q.codes,
            block_scales=q.block_scales.repeat_interleave(2, 1),
            amax=q.amax,
            config=q.config,
            shape=q.shape,
        )


def test_groups_must_divide_the_rows():
    with pytest.raises(ValueError, match=r"amax of shape \(3,\) for 4 rows"):
        quantize(torch.randn(4, 16), amax=torch.ones(3))
    square = QuantizeConfig(block=(16, 16))
    with pytest.raises(ValueError, match="for 32 rows in blocks of 16"):
        quantize(torch.randn(32, 16), square, amax=torch.ones(4))


@pytest.mark.parametrize(("rows", "groups"), [(20, 2), (48, 2), (30, 3), (17, 17)])
def test_groups_must_not_cut_a_block(rows, groups):
    """Padding would move the border: 20 rows are padded to 32, and half of those is not 10."""
    square = QuantizeConfig(block=(16, 16))
    x, amax = torch.randn(rows, 16), torch.arange(1.0, groups + 1)
    for call in (quantize, fake_quantize):
        with pytest.raises(ValueError, match=f"for {rows} rows .*of a multiple of 16 rows each"):
            call(x, square, amax=amax)
    whole = quantize(x, square)
    with pytest.raises(ValueError, match="cut between blocks"):
        replace(whole, amax=amax)
    assert quantize(x, square, amax=amax[:1]).shape == (rows, 16)


def test_groups_of_whole_blocks_are_matrices_of_their_own():
    square = QuantizeConfig(block=(16, 16))
    x = torch.randn(48, 32) * torch.tensor([1.0, 9.0, 0.1]).repeat_interleave(16)[:, None]
    got = quantize(x, square, amax=tensor_amax(x, 3)).dequantize()
    assert_bitwise_equal(
        got, torch.cat([quantize(part, square).dequantize() for part in x.split(16)])
    )


@pytest.mark.parametrize("shape", [(32, 48), (20, 35)])
def test_a_transpose_holds_the_same_values(shape):
    x = torch.randn(shape)
    q = quantize(x, QuantizeConfig(block=(16, 16)))
    assert_bitwise_equal(q.transpose().dequantize(), q.dequantize().t())
    assert_bitwise_equal(q.transpose().codes, quantize(x.t(), q.config).codes)
    with pytest.raises(ValueError, match=r"needs a matrix in blocks of \(16, 16\)"):
        quantize(x).transpose()
