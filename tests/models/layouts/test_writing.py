"""What is written has the names, the sizes and the markers that other programs look for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from longlive_core.testing import assert_bitwise_equal
from longlive_models.layouts import writing
from longlive_models.layouts.folders import write_file
from longlive_models.layouts.gguf_files import Planned, write_gguf
from longlive_models.layouts.part_files import open_part
from longlive_models.layouts.sources import entry_of, open_source
from tests.models.foreign_files import PACKABLE, write_published


def tensors(*bytes_each: int) -> dict[str, Tensor]:
    return {f"w{n}": torch.full((size,), n, dtype=torch.uint8) for n, size in enumerate(bytes_each)}


def written(folder: Path, state: dict[str, Tensor]) -> list[str]:
    named = [(name, entry_of(tensor)) for name, tensor in state.items()]
    writing.write_folder(folder, named, "model", None)
    return sorted(file.name for file in folder.iterdir())


def test_a_folder_that_is_too_large_for_one_file_has_numbered_ones_and_an_index(
    tmp_path, monkeypatch
):
    """As Diffusers and transformers name them: from 1, with how many there are."""
    monkeypatch.setattr(writing, "SHARD_BYTES", 100)
    state = tensors(60, 40, 1, 99, 150, 30)
    shards = {1: ["w0", "w1"], 2: ["w2", "w3"], 3: ["w4"], 4: ["w5"]}
    index = "model.safetensors.index.json"
    names = {number: f"model-0000{number}-of-00004.safetensors" for number in shards}
    assert written(tmp_path, state) == [*names.values(), index]
    for number, held in shards.items():
        assert sorted(load_file(tmp_path / names[number])) == held
    said = json.loads((tmp_path / index).read_text())
    assert said["weight_map"] == {one: names[n] for n, held in shards.items() for one in held}
    assert said["metadata"] == {"total_size": 380}
    back = open_source(tmp_path).entries
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert_bitwise_equal(back[name].read(), tensor)


def test_a_folder_of_one_file_has_no_number_and_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 100)
    assert written(tmp_path, tensors(60, 40)) == ["model.safetensors"]


def test_a_tensor_that_is_not_what_was_announced_is_refused(tmp_path):
    from dataclasses import replace

    entry = replace(entry_of(torch.zeros(3)), read=lambda: torch.zeros(4))
    with pytest.raises(ValueError, match="a is torch.float32 of shape .4,., and its file said"):
        writing.write_safetensors(tmp_path / "a.safetensors", [("a", entry)])


def test_fp8_is_written_with_scales_and_the_marker_that_says_so(tmp_path):
    """Without the marker ComfyUI would take the codes for the values."""
    part = open_part(write_published(tmp_path / "model"), "transformer")
    path = tmp_path / "fp8.safetensors"
    write_file(path, part, "comfyui-fp8", dtype=None, swizzled=None, progress=None)
    made = load_file(path)
    assert made["scaled_fp8"].dtype == torch.float8_e4m3fn
    scales = {f"{name}.scale_weight" for name in PACKABLE}
    assert made.keys() == {*part.plain, "scaled_fp8", *scales}
    for name in PACKABLE:
        codes, scale = made[f"{name}.weight"], made[f"{name}.scale_weight"]
        assert codes.dtype == torch.float8_e4m3fn and scale.dtype == torch.float32
        assert scale.shape == (1,) and codes.float().abs().max() == 448
        want = part.plain[f"{name}.weight"].read().float()
        assert float(want.abs().max()) == pytest.approx(float(448 * scale), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gguf_keeps_the_type_of_plain_weights(dtype, tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    kind = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}[dtype]
    value = torch.linspace(-3, 3, 24).reshape(4, 6).to(dtype)
    planned = [Planned(name="a.weight", shape=(4, 6), kind=kind, read=lambda: value)]
    write_gguf(tmp_path / "a.gguf", planned, {})
    assert gguf.GGUFReader(tmp_path / "a.gguf").tensors[0].tensor_type.name == kind
    entry = open_source(tmp_path / "a.gguf").entries["a.weight"]
    assert entry.dtype == dtype
    assert_bitwise_equal(entry.read(), value)
