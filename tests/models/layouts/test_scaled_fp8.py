"""FP8 is read with the scales that it has, and never without one that it should have."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longlive_models.layouts.part_files import open_part
from tests.models.foreign_files import PACKABLE, scaled_fp8, transformer_state


def saved(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "fp8.safetensors")
    return folder / "fp8.safetensors"


@pytest.mark.parametrize("newer", [True, False])
def test_scaled_fp8_is_not_read_without_its_scales(newer, tmp_path):
    tensors = scaled_fp8(transformer_state(), newer=newer)
    name = "blocks.1.cross_attn.o"
    del tensors[f"{name}.{'weight_scale' if newer else 'scale_weight'}"]
    save_file(tensors, tmp_path / "fp8.safetensors")
    with pytest.raises(ValueError, match=f"{name}.weight in FP8 without its scale"):
        open_part(tmp_path / "fp8.safetensors", "transformer")


def test_one_weight_without_a_scale_among_those_that_have_one_is_refused(tmp_path):
    """Without a marker, as compressed-tensors writes them: the others say that scales are meant."""
    tensors = scaled_fp8(transformer_state(), newer=True)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("comfy_quant")}
    open_part(saved(tensors, tmp_path), "transformer")
    del tensors["blocks.0.ffn.2.weight_scale"]
    with pytest.raises(ValueError, match="blocks.0.ffn.2.weight in FP8 without its scale"):
        open_part(saved(tensors, tmp_path), "transformer")


@pytest.mark.parametrize("name", ["weight_scale_inv", "scale", "scales"])
def test_fp8_beside_a_scale_of_another_name_is_refused(name, tmp_path):
    tensors = scaled_fp8(transformer_state(), newer=True)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("comfy_quant")}
    for one in PACKABLE:
        tensors[f"{one}.{name}"] = tensors.pop(f"{one}.weight_scale").reshape(1)
    with pytest.raises(ValueError, match=rf"holds .* in FP8 beside .*[._]{name}, a scale"):
        open_part(saved(tensors, tmp_path), "transformer")


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (5,), (0,), (64, 2, 1)])
def test_scales_of_squares_are_not_taken_for_scales_of_rows(shape, tmp_path):
    """Four numbers divide 192 rows, and two by two of them are not four groups of rows."""
    tensors = scaled_fp8(transformer_state())
    tensors["blocks.0.ffn.0.scale_weight"] = torch.ones(shape)
    with pytest.raises(
        ValueError, match="ffn.0.weight has 192 rows and a scale of shape .*squares"
    ):
        open_part(saved(tensors, tmp_path), "transformer").read()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (192, 1), (192,)])
def test_a_scale_is_one_number_or_one_for_equal_groups_of_rows(shape, tmp_path):
    tensors = scaled_fp8(transformer_state())
    scale = 1 + torch.arange(torch.Size(shape).numel(), dtype=torch.float32)
    tensors["blocks.0.ffn.0.scale_weight"] = scale.reshape(shape)
    got = open_part(saved(tensors, tmp_path), "transformer").plain["blocks.0.ffn.0.weight"].read()
    rows = scale.repeat_interleave(192 // len(scale))[:, None]
    assert torch.equal(got, tensors["blocks.0.ffn.0.weight"].float() * rows)


def test_fp8_that_never_had_scales_is_read_as_it_is(tmp_path):
    state = transformer_state()
    plain = {f"{name}.weight" for name in PACKABLE}
    save_file(
        {k: v.to(torch.float8_e4m3fn) if k in plain else v for k, v in state.items()},
        tmp_path / "fp8.safetensors",
    )
    read = open_part(tmp_path / "fp8.safetensors", "transformer").read()
    want = state["blocks.0.ffn.2.weight"].to(torch.float8_e4m3fn).bfloat16()
    assert torch.equal(read["blocks.0.ffn.2.weight"], want)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale, tmp_path):
    tensors = scaled_fp8(transformer_state())
    tensors["blocks.0.ffn.0.scale_weight"] = torch.tensor(scale)
    save_file(tensors, tmp_path / "fp8.safetensors")
    with pytest.raises(ValueError, match="the scale of blocks.0.ffn.0.weight is not above 0"):
        open_part(tmp_path / "fp8.safetensors", "transformer").read()
