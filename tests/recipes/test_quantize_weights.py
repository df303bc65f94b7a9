"""Packing a model's folder: what is decided beforehand, and what comes out."""

from dataclasses import replace

import pytest
import torch

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule
from longlive_models.checkpoints.folder import load_part
from longlive_models.checkpoints.nvfp4 import packed_modules
from longlive_recipes.quantize_weights import QuantizeWeights, plan, run
from tests.cli.tiny_model import write_tiny_model


@pytest.fixture
def config(tmp_path):
    return QuantizeWeights(model=str(write_tiny_model(tmp_path / "model")), device="cpu")


def test_the_plan_names_what_is_packed_and_what_is_kept(config, tmp_path):
    found = plan(config, tmp_path / "out")
    assert set(found.packed) == {
        f"blocks.0.{part}.{name}"
        for part, names in (("self_attn", "qkvo"), ("cross_attn", "qkvo"), ("ffn", "02"))
        for name in names
    }
    assert set(found.kept) == {
        "text_embedding.0",
        "text_embedding.2",
        "time_embedding.0",
        "time_embedding.2",
        "time_projection.1",
        "head.head",
    }
    assert found.quantization["weight"]["rule"] == "four_over_six_mse"
    assert not (tmp_path / "out").exists()


def test_more_can_be_kept_or_packed(config, tmp_path):
    more = replace(config, keep=("blocks.0.ffn",), pack=("time_projection",))
    found = plan(more, tmp_path / "out")
    assert "time_projection.1" in found.packed
    assert found.kept["blocks.0.ffn.0"] == "as 'blocks.0.ffn' says"


def test_the_config_says_how_weights_and_inputs_are_rounded():
    packed = QuantizeWeights(model="m", rule="amax_6", block="16x16", activation="none").packed
    assert packed.weight == QuantizeConfig(block=(16, 16))
    assert packed.activation is None
    packed = QuantizeWeights(model="m", bound=448).packed
    assert packed.weight == QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, bound=448)
    assert packed.activation == QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)


def test_the_folder_holds_what_was_planned(config, tmp_path):
    seen = []
    result = run(config, tmp_path / "out", progress=lambda *step: seen.append(step))
    _, tensors = load_part(tmp_path / "out" / "transformer")
    assert packed_modules(tensors)
    assert set(packed_modules(tensors)) == set(plan(config, tmp_path / "other").packed)
    assert result.report.bytes_after < result.report.bytes_before
    assert seen[-1][0] == seen[-1][1]
    assert tensors["blocks.0.modulation"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "amax6"}, "no scale rule 'amax6'; did you mean 'amax_6'"),
        ({"activation": "mse"}, "no scale rule 'mse'.*The rules: amax_6"),
        ({"bound": 100}, "the largest block scale of this rule is 256 or 448"),
        ({"keep": ("x",)}, "keep='x' names no module"),
        ({"keep": ("*",)}, r"nothing of .* would be packed: keep=\* names all of it. Keep less"),
        ({"pack": ("blocks",)}, "pack='blocks' is not kept by default"),
        ({"model": "nowhere"}, "there is no model 'nowhere'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(config, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan(replace(config, **change), tmp_path / "out")


def test_what_shares_a_scale_is_one_row_or_a_square():
    both = [QuantizeWeights(model="pocket", block=name).packed for name in ("1x16", "16x16")]
    assert [one.weight.block for one in both] == [(1, 16), (16, 16)]
    with pytest.raises(ValueError, match="block is one of 1x16, 16x16, got '32x16'"):
        QuantizeWeights(model="pocket", block="32x16")
