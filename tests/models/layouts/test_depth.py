"""A part without its last blocks is refused; a really shorter one loads where a config says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longlive_models.checkpoints.folder import unfilled
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.layouts import depth
from longlive_models.layouts.part_files import open_any, open_part
from longlive_models.layouts.sizes import transformer_config, umt5_config, vae_config
from longlive_models.layouts.whole import shapes_of
from longlive_models.loading import load_model
from longlive_models.published import TEXT, VAE
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text.checkpoint import published_shapes
from longlive_models.text.umt5 import UMT5_XXL
from longlive_models.vae import WAN22_VAE, WanVAE
from longlive_models.wan import WAN_5B, WanTransformer
from tests.models.foreign_files import (
    SPEC,
    UMT5,
    text_state,
    transformer_state,
    vae_state,
    write_comfyui,
    write_diffusers,
    write_published,
)

Shapes = dict[str, tuple[int, ...]]


def without_last(state: dict, *starts: str) -> dict:
    assert any(name.startswith(starts) for name in state)
    return {name: value for name, value in state.items() if not name.startswith(starts)}


def full_transformer() -> Shapes:
    with unfilled():
        return dict(shapes_of(WanTransformer(WAN_5B)))


def full_vae() -> Shapes:
    with unfilled():
        return dict(shapes_of(WanVAE(WAN22_VAE)))


def test_the_published_sizes_are_those_of_the_table():
    assert depth.KNOWN["transformer", WAN_5B.dim, WAN_5B.ffn_dim][1] == WAN_5B.num_layers
    assert depth.KNOWN["text_encoder", UMT5_XXL.dim, UMT5_XXL.dim_ffn][1] == UMT5_XXL.num_layers


def test_the_published_transformer_without_its_last_blocks_is_no_shorter_model():
    shapes = full_transformer()
    assert transformer_config(shapes, None, "a file") == WAN_5B
    cut = without_last(shapes, "blocks.28.", "blocks.29.")
    message = (
        r"a file is not whole: it holds 28 blocks, and Wan2.2-TI2V-5B, as LongLive-2.0-5B, with "
        r"the same widths, 3072 and 14336, has 30. Without its last 2 blocks .* Fetch it again, "
        r'or, if it is a model of 28 blocks, put a config.json beside it with \{"dim": 3072, '
        r'"num_layers": 28\}\.'
    )
    with pytest.raises(ValueError, match=message):
        transformer_config(cut, None, "a file")
    assert transformer_config(cut, {"num_layers": 28}, "a file").num_layers == 28
    with pytest.raises(ValueError, match="holds 28 blocks, and its config says num_layers=30. "):
        transformer_config(cut, WAN_5B.to_dict(), "a file")
    with pytest.raises(ValueError, match="holds 30 blocks, and its config says num_layers=28: con"):
        transformer_config(shapes, {"num_layers": 28}, "a file")
    with pytest.raises(ValueError, match="num_layers in the config of a file .*'30'"):
        transformer_config(shapes, {"num_layers": "30"}, "a file")


def test_the_published_text_encoder_without_its_last_block_is_no_shorter_one():
    shapes = published_shapes(UMT5_XXL)
    assert umt5_config(shapes, None, "a file") == UMT5_XXL
    cut = without_last(shapes, "blocks.23.")
    with pytest.raises(ValueError, match=r"23 blocks, and UMT5-XXL .* 10240, has 24. .* 1 block "):
        umt5_config(cut, None, "a file")
    assert umt5_config(cut, {"num_layers": 23}, "a file").num_layers == 23


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (("encoder.downsamples.3.", "decoder.upsamples.3."), "3 stages of the encoder of 4"),
        (
            ("encoder.downsamples.0.downsamples.1.",),
            "1 residual blocks in a stage of the encoder of 2",
        ),
    ],
)
def test_the_published_vae_without_stages_is_no_smaller_one(starts, message):
    shapes = full_vae()
    assert vae_config(shapes, None, "a file") == WAN22_VAE
    with pytest.raises(ValueError, match=f"a file is not whole: it holds {message}. It was cut"):
        vae_config(without_last(shapes, *starts), None, "a file")


def test_configs_of_wan_itself_are_understood():
    """As the base model has it beside its weights."""
    config = {
        **{"_class_name": "WanModel", "model_type": "ti2v", "dim": 3072, "num_heads": 24},
        **{"ffn_dim": 14336, "freq_dim": 256, "in_dim": 48, "out_dim": 48, "num_layers": 30},
        **{"eps": 1e-06, "text_len": 512},
    }
    assert transformer_config(full_transformer(), config, "a folder") == WAN_5B


def test_what_shapes_do_not_tell_is_taken_from_a_config():
    shapes = full_transformer()
    theirs = {"attention_head_dim": 64, "eps": 1e-5, "num_layers": 30}
    found = transformer_config(shapes, theirs, "a folder")
    assert (found.num_heads, found.eps) == (48, 1e-5)
    text = published_shapes(UMT5_XXL)
    for name in ("relative_attention_max_distance", "max_distance"):
        assert umt5_config(text, {name: 64}, "a folder") == replace(UMT5_XXL, max_distance=64)
    with pytest.raises(ValueError, match="text encoder cannot be told .*max_distance"):
        umt5_config(text, {"max_distance": -1}, "a folder")


@pytest.fixture
def known(monkeypatch) -> None:
    """The tiny model is one that was published."""
    c = SPEC.transformer
    tiny = {
        ("transformer", c.dim, c.ffn_dim): ("Tiny", 2),
        ("text_encoder", UMT5.dim, UMT5.dim_ffn): ("Tiny T5", 2),
    }
    monkeypatch.setattr(depth, "KNOWN", tiny)


def as_pickle(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    path = write_published(folder)
    state = {f"model.{name}": one for name, one in change(transformer_state()).items()}
    torch.save({"generator": state}, path)
    return path


def as_comfyui(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    return write_comfyui(folder, change(transformer_state()))


def as_gguf(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    pytest.importorskip("gguf", reason="gguf is not installed")
    from longlive_models.layouts.gguf_files import Planned, write_gguf

    write_published(folder)
    planned = [
        Planned(name=name, shape=tuple(one.shape), kind="F32", read=lambda one=one: one.float())
        for name, one in change(transformer_state()).items()
    ]
    write_gguf(folder / "wan.gguf", planned, {})
    return folder / "wan.gguf"


def one_block(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return without_last(state, "blocks.1.")


@pytest.mark.parametrize("write", [as_pickle, as_comfyui, as_gguf])
def test_a_file_that_lacks_its_last_block_is_refused_and_a_config_beside_it_allows_it(
    write, known, tmp_path
):
    path = write(tmp_path / "model", one_block)
    with pytest.raises(ValueError, match=rf"{path.name} is not whole: it holds 1 block, and Tiny"):
        read_spec(path)
    config = path.parent / "config.json"
    for other in ('{"dim": 64, "num_layers": 1}', "{", '{"dim": 128}', '{"num_layers": 1}'):
        config.write_text(other)  # of something else
        with pytest.raises(ValueError, match="is not whole"):
            read_spec(path)
    config.write_text('{"num_attention_heads": 1, "attention_head_dim": 128, "num_layers": 1}')
    assert read_spec(path).transformer.num_layers == 1
    config.write_text('{"dim": 128, "num_layers": 1}')
    loaded = load_model(path, Runtime.choose(RuntimeOptions(device="cpu")))
    assert len(loaded.transformer.blocks) == 1


def test_what_training_writes_of_a_shorter_model_loads_again(known, tmp_path):
    path = as_pickle(tmp_path / "model", one_block)
    c = SPEC.transformer
    depth.write_beside(path.parent, c.dim, c.ffn_dim, 2)
    assert not (path.parent / "config.json").exists()
    depth.write_beside(path.parent, c.dim, c.ffn_dim, 1)
    assert read_spec(path.parent).transformer.num_layers == 1
    depth.write_beside(path.parent, c.dim, c.ffn_dim, 2)  # a whole one takes its place
    assert not (path.parent / "config.json").exists()


def test_a_text_encoder_that_lacks_its_last_block_is_refused(known, tmp_path):
    folder = write_published(tmp_path / "model").parent
    torch.save(without_last(text_state(), "blocks.1."), folder / TEXT)
    with pytest.raises(ValueError, match=rf"{TEXT} is not whole: it holds 1 block, and Tiny T5"):
        read_spec(folder)


@pytest.mark.parametrize(
    ("part", "start", "message"),
    [
        ("transformer", "blocks.1.", "holds 1 block, and its config says num_layers=2. W"),
        ("text_encoder", "encoder.block.1.", "holds 1 block, and its config says num_layers=2. W"),
        ("vae", "encoder.down_blocks.3.", "holds 3 stages of the encoder of 4. It was cut"),
    ],
)
def test_a_folder_of_diffusers_has_the_blocks_that_its_config_says(part, start, message, tmp_path):
    inside = write_diffusers(tmp_path / "model") / part
    [file] = inside.glob("*.safetensors")
    save_file(without_last(load_file(file), start), file)
    with pytest.raises(ValueError, match=f"{part} is not whole: it {message}"):
        read_spec(tmp_path / "model")
    if part == "vae":
        return
    config = json.loads((inside / "config.json").read_text())
    (inside / "config.json").write_text(json.dumps(config | {"num_layers": 1}))
    assert sum("ffn.fc1" in one or "ffn.2.w" in one for one in open_any(inside).shapes) == 1
    read_spec(tmp_path / "model")


def test_a_vae_of_fewer_stages_than_its_config_says_is_refused(tmp_path):
    """In a file of this library, whose metadata have the sizes."""
    from longlive_models.layouts.folders import write_file

    torch.save(vae_state(), tmp_path / VAE)
    write_file(
        tmp_path / "vae.safetensors",
        open_part(tmp_path / VAE, "vae"),
        "comfyui",
        dtype=None,
        swizzled=None,
        progress=None,
    )
    from safetensors import safe_open

    with safe_open(tmp_path / "vae.safetensors", "pt") as held:
        notes = held.metadata()
    state = without_last(load_file(tmp_path / "vae.safetensors"), "encoder.downsamples.3.")
    save_file(state, tmp_path / "vae.safetensors", metadata=notes)
    with pytest.raises(ValueError, match="holds 3 stages of the encoder of 4"):
        part = open_part(tmp_path / "vae.safetensors", "vae")
        vae_config(part.shapes, part.config, part.path)


@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "pt"])
def test_one_shard_of_several_is_not_read_as_a_model(suffix, tmp_path):
    path = tmp_path / f"model-00001-of-00003.{suffix}"
    save_file(transformer_state(), path)
    with pytest.raises(ValueError, match="is one of 3 files of a model, as its name says: by its"):
        open_part(path, "transformer")
    alone = tmp_path / "model-00001-of-00001.safetensors"
    save_file(transformer_state(), alone)
    assert open_part(alone, "transformer").shapes.keys() == transformer_state().keys()


def test_a_gguf_file_that_says_it_is_one_of_several_is_refused(tmp_path):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("head.head.bias", torch.zeros(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"wan.gguf is one of 2 files .* `gguf-split --merge`"):
        open_part(tmp_path / "wan.gguf", "transformer")
