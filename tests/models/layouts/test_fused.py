"""Layers of several in one, as exporters join them, are taken apart into the right ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from longlive_core.nvfp4 import CONVENTIONS, QuantizeConfig, quantize
from longlive_core.testing import assert_bitwise_equal
from longlive_models.layouts.key_maps import to_diffusers
from longlive_models.layouts.part_files import PartFile, open_part
from tests.models.foreign_files import transformer_state

JOINED = {
    "self_attn": [("qkv", "qkv"), ("qkv_proj", "qkv")],
    "attn1": [("to_qkv", "qkv"), ("to_kv", "kv")],
    "attn2": [("to_kv", "kv"), ("to_qkv", "qkv")],
}
"""By the name of an attention, how its joined layer may be called, and what stands in it."""
CASES = [(holder, *case) for holder, cases in JOINED.items() for case in cases]
OURS = {"self_attn": "self_attn", "attn1": "self_attn", "attn2": "cross_attn"}


def names(state: dict[str, Tensor], holder: str) -> dict[str, Tensor]:
    """The state under the names that the file has."""
    if holder == "self_attn":
        return dict(state)
    return {str(to_diffusers("transformer", name)): value for name, value in state.items()}


def opened(folder: Path, state: dict[str, Tensor], **metadata: str) -> PartFile:
    save_file(state, folder / "joined.safetensors", metadata=metadata)
    return open_part(folder / "joined.safetensors", "transformer")


@pytest.mark.parametrize(("holder", "joined", "parts"), CASES)
def test_plain_layers_are_taken_apart(holder, joined, parts, tmp_path):
    state = transformer_state()
    file = names(state, holder)
    own = "{}" if holder == "self_attn" else "to_{}"
    for block in range(2):
        before = f"blocks.{block}.{holder}"
        for end in ("weight", "bias"):
            pieces = [file.pop(f"{before}.{own.format(part)}.{end}") for part in parts]
            file[f"{before}.{joined}.{end}"] = torch.cat(pieces)
    part = opened(tmp_path, file)
    assert part.shapes.keys() == state.keys()
    for name, value in state.items():
        assert part.plain[name].shape == value.shape
        assert_bitwise_equal(part.plain[name].read(), value, name)


@pytest.mark.parametrize(("holder", "joined", "parts"), CASES)
def test_packed_layers_are_taken_apart_each_with_its_own_scale(holder, joined, parts, tmp_path):
    state = transformer_state()
    factors = dict(zip("qkv", (1.0, 3.0, 0.4), strict=True))
    ours = OURS[holder]
    want, file = {}, names(state, holder)
    own = "{}" if holder == "self_attn" else "to_{}"
    before = f"blocks.1.{holder}"
    written = []
    for part in parts:
        weight = file.pop(f"{before}.{own.format(part)}.weight").float() * factors[part]
        want[part] = quantize(weight, QuantizeConfig())
        written.append(CONVENTIONS["gguf"].write(want[part]))
    scales = torch.cat([one["scale"] for one in written])
    file[f"{before}.{joined}.blocks"] = torch.cat([one["blocks"] for one in written])
    file[f"{before}.{joined}.scale"] = scales
    biases = [file.pop(f"{before}.{own.format(part)}.bias") for part in parts]
    file[f"{before}.{joined}.bias"] = torch.cat(biases)
    read = opened(tmp_path, file)
    assert read.shapes.keys() == state.keys()
    for part, packed in want.items():
        got = read.packed[f"blocks.1.{ours}.{part}"].read()
        assert torch.equal(got.codes, packed.codes)
        assert_bitwise_equal(got.amax, packed.amax)
        bias = read.plain[f"blocks.1.{ours}.{part}.bias"].read()
        assert_bitwise_equal(bias, state[f"blocks.1.{ours}.{part}.bias"])


def test_a_layer_of_three_has_rows_for_three(tmp_path):
    state = transformer_state()
    for one in "qkv":
        del state[f"blocks.0.self_attn.{one}.weight"]
    state["blocks.0.self_attn.qkv.weight"] = torch.zeros(385, 128)
    with pytest.raises(ValueError, match="qkv.weight has 385 rows, which do not divide into q, k"):
        opened(tmp_path, state)
