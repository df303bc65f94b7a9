"""Groups 9 and 13 on numbers made here: other settings are followed, wrong bytes are found."""

from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, quantize, scale_rules
from tests.checks.framework import run_case
from tests.checks.group_13 import added_one_after_another


def folder(path, group, tensors, config, **meta):
    """A folder of one case; its name and what the manifest says of it."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, path / "case.safetensors")
    return path, "case", {"group": group, "config": config, "file": "case.safetensors", **meta}


def near_ties():
    """A quarter are powers of two: of many blocks both scales are as good but for rounding."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    x[::4] = x[::4].sign() * 2.0 ** (3 * x[::4]).round()
    return x


def written(x, rule, added=added_one_after_another):
    with patch.object(scale_rules, "ordered_sum", added):
        q = quantize(x, QuantizeConfig(rule=rule))
    prefix = f"output.x.{rule}_256.1x16"
    scales = q.block_scales.view(torch.uint8)
    return {
        "input.x": x,
        f"{prefix}.codes_packed": q.codes,
        f"{prefix}.scales_e4m3_bytes": scales,
        f"{prefix}.amax": q.amax,
    }


@pytest.mark.parametrize("rule", [ScaleRule.FOUR_OVER_SIX_MSE, ScaleRule.FOUR_OVER_SIX_MAE])
def test_near_ties_are_told_from_wrong_bytes(tmp_path, rule):
    x = near_ties() if rule is ScaleRule.FOUR_OVER_SIX_MAE else torch.randn(64, 128)
    parity = rule is ScaleRule.FOUR_OVER_SIX_MAE
    tensors = written(x, rule)
    verdict = run_case(*folder(tmp_path, 13, tensors, {"rows": 1}))
    assert str(verdict) == ("held (parity)" if parity else "held")
    for part in ("codes_packed", "scales_e4m3_bytes"):
        wrong = dict(tensors)
        name = f"output.x.{rule}_256.1x16.{part}"
        wrong[name] = wrong[name].clone()
        wrong[name][3, 2] ^= 1
        verdict = run_case(*folder(tmp_path, 13, wrong, {}))
        assert verdict.kind == "failed" and part in verdict.detail
    if parity:  # what another order gives is none of the original's bytes
        wrong = written(x, rule, lambda errors: errors.flip(-1).cumsum(-1)[..., -1])
        assert run_case(*folder(tmp_path, 13, wrong, {})).kind == "failed"


def test_outputs_and_settings_that_are_not_known_fail(tmp_path):
    tensors = written(torch.randn(32, 64), ScaleRule.FOUR_OVER_SIX_MSE)
    more = tensors | {"output.x.row_scaled.1x16.codes_packed": torch.zeros(1)}
    verdict = run_case(*folder(tmp_path, 13, more, {}))
    assert verdict.kind == "failed" and "row_scaled" in verdict.detail
    verdict = run_case(*folder(tmp_path, 13, tensors, {"fast_math": True}))
    assert str(verdict) == "failed: unknown key fast_math"


@pytest.mark.parametrize("rule", [None, "static_4", "mse"])
def test_random_rounding_follows_the_rule_of_the_case(tmp_path, rule):
    x, draws = torch.randn(16, 64), 200
    ours = {"static_4": ScaleRule.AMAX_4, "mse": ScaleRule.FOUR_OVER_SIX_MSE}
    config = QuantizeConfig(rule=ours.get(rule, ScaleRule.AMAX_6), rounding="stochastic")
    q = quantize(x.repeat(draws, 1), config)
    tensors = {
        "input.x": x,
        "output.mean_dequant_f32": q.dequantize().view(draws, 16, 64).mean(0),
        "output.scales_rowmajor_f32": q.block_scales[:16].float(),
    }
    config = {"draws": draws} | ({} if rule is None else {"scale_rule": rule})
    assert run_case(*folder(tmp_path, 9, tensors, config, seed=3)).kind == "held"
    other = {"draws": draws, "scale_rule": "static_4" if rule != "static_4" else "mse"}
    assert run_case(*folder(tmp_path, 9, tensors, other, seed=3)).kind == "failed"
    unknown = config | {"round_style": "nearest"}
    verdict = run_case(*folder(tmp_path, 9, tensors, unknown, seed=3))
    assert str(verdict) == "failed: unknown key round_style"
