"""A tiny model in every layout: it loads with the same values, and the command generates."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from longlive_cli.main import app
from longlive_core.nvfp4 import CONVENTIONS, QuantizeConfig, quantize
from longlive_core.testing import assert_bitwise_equal
from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.layouts.gguf_files import Planned, write_gguf
from longlive_models.layouts.part_files import open_part
from longlive_models.loading import LoadedModel, load_model
from longlive_models.precision import set_precision, stored_precision
from longlive_models.published import (
    LONGLIVE_5B,
    TEXT,
    VAE,
    find_files,
    load_published,
    open_files,
)
from longlive_models.quantized_filling import fill_quantized
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import WanTransformer
from tests.live_bytes import LiveBytes
from tests.models.foreign_files import (
    PACKABLE,
    SPEC,
    scaled_fp8,
    text_state,
    transformer_state,
    vae_state,
    write_base,
    write_comfyui,
    write_diffusers,
    write_published,
)

SMALL = replace(LONGLIVE_5B, settings=replace(LONGLIVE_5B.settings, height=64, width=64, steps=1))


def published(folder: Path) -> Path:
    return write_published(folder).parent


def one_diffusers_part(folder: Path) -> Path:
    """The transformer alone as Diffusers saves it, beside the base model's files."""
    whole = write_diffusers(folder / "theirs")
    (whole / "transformer").rename(folder / "transformer")
    write_base(folder / "Wan2.2-TI2V-5B")
    return folder / "transformer"


def wrapped(folder: Path) -> Path:
    """A training checkpoint: averaged weights, with the names that wrappers leave."""
    write_base(folder)
    state = {
        f"model._fsdp_wrapped_module.{k.replace('.ffn.', '._orig_mod.ffn.')}": v
        for k, v in transformer_state().items()
    }
    torch.save({"generator_ema": state, "step": 7}, folder / "model_bf16.pt")
    return folder


def te(folder: Path) -> Path:
    return write_published(folder, "model_te.pt").parent


def below_others(folder: Path) -> Path:
    """Each part below a word of another program, one dict in another, no word alike."""
    write_base(folder)
    state = {f"student.dit.{k}": v for k, v in transformer_state().items()}
    torch.save({"model": {"state_dict": state, "epoch": 3}, "step": 7}, folder / "model_bf16.pt")
    vae = {f"first_stage_model.{k}": v for k, v in vae_state().items()}
    torch.save(vae, folder / VAE)
    torch.save({f"t5.{k}": v for k, v in text_state().items()}, folder / TEXT)
    return folder


def comfyui_fp8(folder: Path) -> Path:
    return write_comfyui(folder, scaled_fp8(transformer_state()))


def comfyui_new_fp8(folder: Path) -> Path:
    return write_comfyui(folder, scaled_fp8(transformer_state(), newer=True))


def comfyui_nvfp4(folder: Path) -> Path:
    return write_comfyui(folder, packed("comfyui"))


def comfyui_nvfp4_noted(folder: Path) -> Path:
    """Formats in the file's metadata, where files of models that were not published have them."""
    state = {k: v for k, v in packed("comfyui").items() if not k.endswith("comfy_quant")}
    layers = {f"model.diffusion_model.{name}": {"format": "nvfp4"} for name in PACKABLE}
    return write_comfyui(folder, state, _quantization_metadata=json.dumps({"layers": layers}))


def gguf(folder: Path) -> Path:
    write_base(folder)
    pytest.importorskip("gguf", reason="gguf is not installed")
    planned = [
        Planned(name=k, shape=tuple(v.shape), kind=_kind(k), read=lambda v=v: v)
        for k, v in transformer_state().items()
    ]
    write_gguf(folder / "wan-Q8_0.gguf", planned, {})
    return folder / "wan-Q8_0.gguf"


def _kind(name: str) -> str:
    return "Q8_0" if name.removesuffix(".weight") in PACKABLE else "F32"


def packed(convention: str) -> dict[str, torch.Tensor]:
    state = transformer_state()
    for name in PACKABLE:
        q = quantize(state.pop(f"{name}.weight").float(), QuantizeConfig())
        written = CONVENTIONS[convention].write(q)
        state |= {f"{name}.{key}": tensor for key, tensor in written.items()}
    return state


EXACT = {
    "published": published,
    "one file": write_published,
    "diffusers": write_diffusers,
    "diffusers part": one_diffusers_part,
    "wrapped": wrapped,
    "te": te,
    "below others": below_others,
    "comfyui": write_comfyui,
}
ROUNDED: dict[str, tuple[Callable[[Path], Path], float]] = {
    "comfyui fp8": (comfyui_fp8, 0.04),
    "comfyui newer fp8": (comfyui_new_fp8, 0.04),
    "comfyui nvfp4": (comfyui_nvfp4, 0.13),
    "comfyui nvfp4 in metadata": (comfyui_nvfp4_noted, 0.13),
    "gguf": (gguf, 0.01),
}
ALL = {**EXACT, **{name: write for name, (write, _) in ROUNDED.items()}}


@pytest.fixture(autouse=True)
def no_network(monkeypatch) -> None:
    """Whatever opens a connection fails: nothing is fetched unless it was asked for."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def on_cpu(**how: str) -> Runtime:
    return Runtime.choose(RuntimeOptions(device="cpu", **how))


@pytest.mark.parametrize("write", ALL.values(), ids=ALL)
def test_sizes_are_read_from_the_files(write, tmp_path):
    path = write(tmp_path / "model")
    assert resolve(str(path)) == path
    assert is_published(path)
    assert read_spec(path) == SPEC


@pytest.mark.parametrize("write", EXACT.values(), ids=EXACT)
def test_a_layout_loads_the_same_values(write, tmp_path):
    loaded = load_model(write(tmp_path / "model"), on_cpu())
    for name, value in transformer_state().items():
        assert_bitwise_equal(loaded.transformer.state_dict()[name].bfloat16(), value)
    for name, value in vae_state().items():
        assert_bitwise_equal(loaded.vae.state_dict()[name], value)
    assert loaded.vae.config == SPEC.vae
    red, blue = (loaded.text.encode([f"a {color} circle"]) for color in ("red", "blue"))
    assert red.shape == (1, 512, 64)
    assert not torch.equal(red, blue)


@pytest.mark.parametrize("name", ROUNDED)
def test_a_layout_of_fewer_bits_loads_what_its_numbers_say(name, tmp_path):
    write, bound = ROUNDED[name]
    path = write(tmp_path / "model")
    assert stored_precision(path) == ("nvfp4" if "nvfp4" in name else "plain")
    from longlive_core.nvfp4 import decode_linears

    loaded = load_model(path, on_cpu())
    decode_linears(loaded.transformer, torch.float32)
    own = loaded.transformer.state_dict()
    for key, value in transformer_state().items():
        error = (own[key].float() - value.float()).norm() / value.float().norm()
        assert error <= (bound if key.removesuffix(".weight") in PACKABLE else 1e-6), key


@pytest.mark.parametrize("write", ALL.values(), ids=ALL)
def test_the_command_generates_from_it(write, tmp_path, monkeypatch):
    monkeypatch.setattr("longlive_models.published.LONGLIVE_5B", SMALL)
    path, video = write(tmp_path / "model"), tmp_path / "red.mp4"
    command = ["generate", "a red circle", "--model", str(path), "-o", str(video)]
    done = CliRunner().invoke(app, [*command, "--seconds", "1", "--set", "device=cpu"])
    assert done.exit_code == 0, done.output
    record = json.loads(video.with_suffix(".json").read_text())
    hashes = record["files_sha256"]
    assert len(hashes) == 3
    assert record["model_sha256"] in hashes.values()
    assert all(len(one) == 64 and Path(file).exists() for file, one in hashes.items())


def test_fused_layers_are_taken_apart_with_a_scale_each(tmp_path):
    """Exports that join queries, keys and values have three scales, which differ."""
    state = transformer_state()
    plain = {
        f"{p}.self_attn.{one}.{end}"
        for p in ("blocks.0", "blocks.1")
        for one in "qkv"
        for end in ("weight", "bias")
    }
    fused = {k: v for k, v in state.items() if k not in plain}
    for block in ("blocks.0", "blocks.1"):
        whole = [
            state[f"{block}.self_attn.{one}.weight"].float() * s
            for one, s in zip("qkv", (1, 3, 0.4), strict=True)
        ]
        parts = [
            CONVENTIONS["modelopt"].write(quantize(weight, QuantizeConfig())) for weight in whole
        ]
        name = f"{block}.self_attn.qkv"
        fused[f"{name}.weight"] = torch.cat([part["weight"] for part in parts])
        fused[f"{name}.weight_scale"] = torch.cat(
            [p["weight_scale"].view(torch.uint8) for p in parts]
        ).view(torch.float8_e4m3fn)
        fused[f"{name}.weight_scale_2"] = torch.stack([part["weight_scale_2"] for part in parts])
        fused[f"{name}.bias"] = torch.cat([state[f"{block}.self_attn.{one}.bias"] for one in "qkv"])
    folder = tmp_path / "transformer"
    folder.mkdir()
    save_file(fused, folder / "model.safetensors")
    config = {
        "_class_name": "WanTransformer3DModel",
        "quantization_config": {"quant_method": "modelopt"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    part = open_part(folder, "transformer")
    for block in ("blocks.0", "blocks.1"):
        for one, factor in zip("qkv", (1, 3, 0.4), strict=True):
            name = f"{block}.self_attn.{one}"
            want = state[f"{name}.weight"].float() * factor
            got = part.packed[name].read().dequantize()
            assert (got - want).norm() / want.norm() < 0.13
            assert_bitwise_equal(part.plain[f"{name}.bias"].read(), state[f"{name}.bias"])


def test_rows_scaled_one_by_one_are_decoded_so(tmp_path):
    path = comfyui_fp8(tmp_path / "model")
    tensors = load_file(path)
    name = "model.diffusion_model.blocks.0.ffn.0"
    rows = torch.linspace(0.5, 2, 192)
    tensors[f"{name}.scale_weight"] = rows
    save_file(tensors, path)
    loaded = load_model(path, on_cpu()).transformer.state_dict()["blocks.0.ffn.0.weight"]
    assert_bitwise_equal(loaded, tensors[f"{name}.weight"].float() * rows[:, None])


DECODED = {"gguf": gguf, "comfyui fp8": comfyui_fp8, "comfyui newer fp8": comfyui_new_fp8}


@pytest.mark.parametrize("write", DECODED.values(), ids=DECODED)
def test_decoded_weights_leave_the_host_one_by_one(write, tmp_path):
    """With the values, to the bit, that they have when all are read and then moved."""
    part = open_files(find_files(write(tmp_path / "model"))).transformer
    whole = part.read()
    decoded = {name for name, entry in part.plain.items() if entry.decoded}
    assert {f"{name}.weight" for name in PACKABLE} <= decoded
    largest = max(whole[name].nbytes for name in decoded)
    on_gpu = replace(on_cpu(weights="bf16"), device=torch.device("meta"))  # away from the host
    with LiveBytes() as live:
        placed = part.read(check=False, placed=on_gpu.placing())
    assert all(placed[name].device.type == "meta" for name in decoded)
    assert live.peak <= 3.1 * largest
    assert live.peak < sum(whole[name].nbytes for name in decoded) / 2
    waits = replace(on_gpu, offload=True).placing()
    for name, value in part.read(check=False, placed=waits).items():
        assert value.device.type == "cpu" and value.dtype == torch.bfloat16
        assert_bitwise_equal(value, whole[name].bfloat16())
    for other in ({"weights": "nvfp4"}, {"weights": "bf16"}):
        assert on_cpu(**other).placing() is None
    assert replace(on_cpu(weights="nvfp4"), device=torch.device("meta")).placing() is None


@pytest.mark.parametrize(
    ("write", "weights"),
    [(gguf, "nvfp4"), (comfyui_fp8, "nvfp4-w4a4"), (comfyui_new_fp8, "fp8"), (published, "fp8")],
)
def test_decoded_weights_are_quantized_one_by_one(write, weights, tmp_path):
    """With the codes and scales that they get where all are decoded, and then quantized."""
    path, runtime = write(tmp_path / "model"), on_cpu(weights=weights)
    opened = open_files(find_files(path))
    whole = opened.transformer.read()
    with unfilled():
        model, want = WanTransformer(SPEC.transformer), WanTransformer(SPEC.transformer)
    fill(want, whole, path)
    notes = set_precision(want, runtime)
    del whole
    with LiveBytes() as live:
        fill_quantized(model, opened.transformer, runtime)
        left = live.now
    decoded = 4 * 192 * 128  # the largest weight, in float32
    assert live.peak - left <= 3.5 * decoded, "one decoded weight, and what it becomes on the way"
    assert decoded < sum(p.nbytes for p in WanTransformer(SPEC.transformer).parameters()) / 10
    assert set_precision(model, runtime) == notes and notes
    assert model.state_dict().keys() == want.state_dict().keys()
    for (name, one), (_, other) in zip(model.named_modules(), want.named_modules(), strict=True):
        assert type(one) is type(other), name
        assert getattr(one, "config", None) == getattr(other, "config", None)
        assert getattr(one, "working_dtype", None) == getattr(other, "working_dtype", None)
    for name, value in want.state_dict().items():
        assert_bitwise_equal(model.state_dict()[name], value, name)
    if weights == "fp8":
        loaded = load_model(path, runtime).transformer
        assert_bitwise_equal(
            loaded.blocks[1].ffn[0].weight_codes, model.blocks[1].ffn[0].weight_codes
        )


def test_ranks_that_share_inputs_share_the_amax_of_layers_that_were_decoded(tmp_path):
    opened = open_files(find_files(gguf(tmp_path / "model")))
    with unfilled():
        model = WanTransformer(SPEC.transformer)
    fill_quantized(model, opened.transformer, on_cpu(weights="nvfp4-w4a4"), torch.neg)
    assert {model.get_submodule(name).reduce_amax for name in PACKABLE} == {torch.neg}


@pytest.mark.parametrize("weights", ["nvfp4", "fp8"])
@pytest.mark.parametrize(("write", "devices"), [(gguf, {"meta"}), (published, {"meta", "cpu"})])
def test_only_what_is_decoded_or_quantized_leaves_the_host(write, devices, weights, tmp_path):
    opened = open_files(find_files(write(tmp_path / "model")))
    away = replace(on_cpu(weights=weights), device=torch.device("meta"))
    with unfilled():
        model = WanTransformer(SPEC.transformer)
    fill_quantized(model, opened.transformer, away, check=False)
    assert {one.device.type for one in model.state_dict().values()} == devices
    assert {one.device.type for one in model.blocks[1].ffn[0].buffers()} == {"meta"}


def test_a_number_that_is_none_is_found_while_weights_are_quantized(tmp_path):
    path = write_published(tmp_path / "model")
    state = torch.load(path)
    state["generator"]["model.blocks.1.ffn.0.weight"][3, 3] = torch.inf
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"blocks.1.ffn.0.weight in .*model_bf16.pt holds inf"):
        load_model(path, on_cpu(weights="fp8"))


def test_a_hub_id_is_fetched_where_that_is_asked_for(tmp_path, monkeypatch):
    folder, asked = published(tmp_path / "model"), []

    def snapshot(model: str, *, download: bool, **more: object) -> Path:
        asked.append(download)
        if not download:
            raise ValueError("pass --download")
        return folder

    monkeypatch.setattr("longlive_models.checkpoints.hub.snapshot", snapshot)
    command = ["generate", "a", "--model", "owner/name", "--dry-run", "-o", str(tmp_path / "a.mp4")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "pass --download" in refused.output and asked == [False]
    done = CliRunner().invoke(app, [*command, "--download"])
    assert done.exit_code == 0, done.output
    assert all(asked[1:])


def test_weights_that_were_not_searched_while_loading_are_searched_after(tmp_path):
    """On a GPU they are searched once they are there; the file is named all the same."""
    path = write_published(tmp_path / "model")
    state = torch.load(path)
    state["generator"]["model.blocks.1.ffn.0.bias"][3] = torch.nan
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"blocks.1.ffn.0.bias in .*model_bf16.pt holds nan"):
        load_model(path, on_cpu())
    opened = open_files(find_files(path))
    transformer, vae, text = load_published(opened, runtime=on_cpu(), check=False)
    late = LoadedModel(
        transformer=transformer,
        vae=vae,
        text=text,
        settings=SPEC.settings,
        weights=path,
        unchecked={"vae": opened.vae.path, "transformer": path},
    )
    with pytest.raises(ValueError, match=r"blocks.1.ffn.0.bias in .*model_bf16.pt holds nan"):
        late.check_numbers()
