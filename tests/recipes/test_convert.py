"""Conversions between layouts: there and back to the bit, and nothing half-written."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, quantize
from longlive_core.testing import assert_bitwise_equal
from longlive_models.adapters import read_adapter
from longlive_models.checkpoints.folder import save_part
from longlive_models.checkpoints.nvfp4 import KEY, PackedConfig, packed_state
from longlive_models.layouts.part_files import PartFile, open_any, open_part
from longlive_models.loading import load_model
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes import convert as recipe
from longlive_recipes.configs.convert import FORMATS, Convert
from tests.models.adapters.layouts import adapter, in_layout, product, tiny_model
from tests.models.foreign_files import (
    PACKABLE,
    SPEC,
    transformer_state,
    write_comfyui,
    write_diffusers,
    write_published,
)
from tests.models.tiny_pipeline import write_tiny_folder

PLAIN = ("published", "diffusers", "comfyui", "longlive")
PACKED = tuple(name for name, one in FORMATS.items() if one.packed)
ROUNDED = ("mlx", "compressed-tensors")
RULES = [(rule, bound) for rule in ScaleRule for bound in rule.bounds]


def convert(source: Path, output: Path, to: str, **how: object) -> Path:
    recipe.run(Convert(model=str(source), to=to, **how), output)
    return output


def values(part: PartFile) -> dict[str, Tensor]:
    return dict(part.each())


def require_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert_bitwise_equal(got[name], value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_published(tmp_path_factory.mktemp("whole") / "model").parent


@pytest.mark.parametrize("to", PLAIN)
def test_a_whole_model_goes_there_and_back_to_the_bit(to, whole, tmp_path):
    there = convert(whole, tmp_path / "there", to)
    back = convert(there, tmp_path / "back", "published")
    for part, name in (
        ("transformer", "model_bf16.pt"),
        ("vae", "Wan2.2_VAE.pth"),
        ("text_encoder", "models_t5_umt5-xxl-enc-bf16.pth"),
    ):
        require_same(values(open_part(back / name, part)), values(open_part(whole / name, part)))


@pytest.mark.parametrize("to", PLAIN)
def test_what_is_written_loads_and_encodes_as_before(to, whole, tmp_path):
    runtime = Runtime.choose(RuntimeOptions(device="cpu"))
    there = convert(whole, tmp_path / "there", to)
    path = there / "diffusion_models/wan2.2_ti2v_5B.safetensors" if to == "comfyui" else there
    got, want = (load_model(one, runtime) for one in (path, whole))
    assert got.settings == want.settings
    for part in ("transformer", "vae", "text"):
        require_same(getattr(got, part).state_dict(), getattr(want, part).state_dict())
    assert_bitwise_equal(got.text.encode(["a red circle"]), want.text.encode(["a red circle"]))


def test_diffusers_and_transformers_load_what_is_written(whole, tmp_path):
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    ours = convert(whole, tmp_path / "ours", "diffusers")
    theirs = write_diffusers(tmp_path / "theirs")
    for kind, part in (
        (WanTransformer3DModel, "transformer"),
        (AutoencoderKLWan, "vae"),
        (UMT5EncoderModel, "text_encoder"),
    ):
        got, want = (
            kind.from_pretrained(folder / part, torch_dtype=torch.float32)
            for folder in (ours, theirs)
        )
        require_same(got.state_dict(), want.state_dict())


def packed_folder(folder: Path, config: QuantizeConfig, names: tuple[str, ...] = PACKABLE) -> Path:
    """The transformer as `longlive quantize` leaves it."""
    state = transformer_state()
    for name in names:
        weight = quantize(state.pop(f"{name}.weight").float(), config)
        state |= packed_state(name, weight)
    values = {**SPEC.transformer.to_dict(), KEY: PackedConfig(weight=config).to_dict()}
    save_part(folder / "transformer", values, state)
    return folder / "transformer"


@pytest.mark.parametrize("to", PACKED)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(RULES),
    height=st.sampled_from([1, 16]),
    scales=st.sampled_from(["linear", "swizzled"]),
    names=st.sets(st.sampled_from(PACKABLE), min_size=1),
)
def test_packed_weights_go_there_and_back_to_the_bit(
    to, kind, height, scales, names, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("packed")
    rule, bound = kind
    config = QuantizeConfig(rule=rule, bound=bound, block=(height, 16))
    source = packed_folder(folder, config, tuple(sorted(names)))
    how = {"scales": scales} if to in ("torchao", "transformer-engine") else {}
    output = folder / f"out{FORMATS[to].suffix}"
    if to == "published-nvfp4" and bound != QuantizeConfig(rule=rule).bound:
        with pytest.raises(ValueError, match=f"no word for a bound of {bound}"):
            convert(source, output, to)
        assert not output.exists()
        return
    convert(source, output, to, **how)
    got = {name: one.read() for name, one in open_any(output).packed.items()}
    want = {name: one.read() for name, one in open_any(source).packed.items()}
    assert got.keys() == want.keys() == names
    for name, weight in want.items():
        assert torch.equal(got[name].codes, weight.codes)
        assert_bitwise_equal(
            got[name].block_scales.view(torch.uint8), weight.block_scales.view(torch.uint8)
        )
        decoded = got[name].dequantize(), weight.dequantize()
        if to in ROUNDED:
            torch.testing.assert_close(*decoded, rtol=4e-7, atol=0)
        else:
            torch.testing.assert_close(*decoded, rtol=0, atol=0)


@pytest.mark.parametrize(
    "to", ["comfyui-nvfp4", "published-nvfp4", "torchao", "transformer-engine"]
)
def test_our_folder_comes_back_with_its_rule(to, tmp_path):
    config = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
    source = packed_folder(tmp_path / "model", config)
    how = {"scales": "linear"} if to in ("torchao", "transformer-engine") else {}
    there = convert(source, tmp_path / f"there{FORMATS[to].suffix}", to, **how)
    back = convert(there, tmp_path / "back", "longlive")
    require_same(values(open_any(back / "transformer")), values(open_any(source)))


def test_packed_weights_become_plain_ones_of_the_values_they_had(tmp_path):
    source = packed_folder(tmp_path / "model", QuantizeConfig())
    plain = convert(source, tmp_path / "plain.safetensors", "comfyui", dtype="fp32")
    for name, weight in open_any(source).packed.items():
        got = open_any(plain).plain[f"{name}.weight"].read()
        assert_bitwise_equal(got, weight.read().dequantize())


@pytest.mark.parametrize(
    ("to", "suffix", "bound"),
    [
        ("comfyui-fp8", ".safetensors", 0.04),
        ("gguf-q8_0", ".gguf", 0.01),
        ("gguf", ".gguf", 0.0),
    ],
)
def test_layouts_of_fewer_bits_hold_the_values_nearly(to, suffix, bound, whole, tmp_path):
    file = whole / "model_bf16.pt"
    made = open_any(convert(file, tmp_path / f"out{suffix}", to))
    assert set(made.plain) == set(transformer_state())
    for name, value in transformer_state().items():
        error = (made.plain[name].read().float() - value.float()).norm() / value.float().norm()
        assert error <= (bound if name.removesuffix(".weight") in PACKABLE else 0), name


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_plain_weights_get_the_type_that_is_asked_for(dtype, whole, tmp_path):
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    out = convert(whole / "model_bf16.pt", tmp_path / "out.safetensors", "comfyui", dtype=dtype)
    for name, tensor in load_file(out).items():
        assert_bitwise_equal(tensor, transformer_state()[name].to(wanted))


@pytest.mark.parametrize(
    ("to", "dtype", "exact", "why"),
    [
        ("diffusers", "keep", True, ""),
        ("comfyui", "fp32", True, ""),
        ("comfyui", "fp16", False, "plain weights are rounded to fp16"),
        ("comfyui-fp8", "keep", False, "block linears are rounded to FP8"),
    ],
)
def test_the_plan_says_what_changes(to, dtype, exact, why, whole, tmp_path):
    name = "out.safetensors" if to != "diffusers" else "out"
    config = Convert(model=str(whole / "model_bf16.pt"), to=to, dtype=dtype)
    planned = recipe.plan(config, tmp_path / name)
    assert (planned.exact, planned.why) == (exact, why)
    assert planned.tensors == len(transformer_state())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        ({"to": "diffuser"}, "out", "no layout 'diffuser'; did you mean 'diffusers'"),
        ({"to": "diffusers", "dtype": "bf61"}, "out", "no type 'bf61'; did you mean 'bf16'"),
        ({"to": "gguf"}, "out.safetensors", "ends in .safetensors, and GGUF, plain ends in .gguf"),
        ({"to": "comfyui-nvfp4"}, "out", "one file in the layout comfyui-nvfp4"),
        (
            {"to": "comfyui"},
            "out.safetensors",
            "is one file, and .* has transformer, vae, text_enc",
        ),
        ({"to": "comfyui-nvfp4"}, "out.safetensors", "are plain: converting does not round"),
        ({"to": "gguf", "part": "vae"}, "out.gguf", "holds a transformer, and part='vae' is none"),
        ({"to": "longlive"}, "model/inside", "lies in the model's own folder"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(how, name, message, whole, tmp_path):
    output = whole / "inside" if name == "model/inside" else tmp_path / name
    with pytest.raises(ValueError, match=message):
        recipe.run(Convert(model=str(whole), **how), output)
    assert not list(tmp_path.iterdir())


def test_two_orders_of_scales_are_not_guessed(tmp_path):
    source = packed_folder(tmp_path / "model", QuantizeConfig())
    with pytest.raises(ValueError, match="two orders: say --scales"):
        convert(source, tmp_path / "out.safetensors", "torchao")


def test_what_exists_is_not_replaced_and_what_is_read_is_not_changed(whole, tmp_path):
    before = {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists: name another one"):
        convert(whole, tmp_path / "there", "diffusers")
    convert(whole, tmp_path / "new", "diffusers")
    assert {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()} == before


def test_a_conversion_that_breaks_off_leaves_nothing(whole, tmp_path):
    def stop(done: int, total: int, name: str) -> None:
        if done > 5:
            raise KeyboardInterrupt

    for to, name in (("diffusers", "out"), ("comfyui", "out.safetensors"), ("gguf", "out.gguf")):
        config = Convert(model=str(whole), to=to, part="transformer")
        with pytest.raises(KeyboardInterrupt):
            recipe.run(config, tmp_path / name, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_name_that_diffusers_has_not_is_not_dropped(tmp_path):
    path = write_comfyui(tmp_path / "model")
    tensors = load_file(path) | {"model.diffusion_model.extra.weight": torch.zeros(2)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match="extra.weight, for which Diffusers' model has no name"):
        convert(path, tmp_path / "out", "diffusers")


@pytest.mark.parametrize("to", ["lora-peft", "lora-kohya"])
def test_an_adapter_is_written_in_another_layout(to, tmp_path):
    model, want = write_tiny_folder(tmp_path / "model"), adapter()
    save_file(in_layout(want, "comfyui"), tmp_path / "in.safetensors")
    named = {"model": str(model), "to": to, "lora": str(tmp_path / "in.safetensors")}
    output = tmp_path / f"out{FORMATS[to].suffix}"
    planned = recipe.plan(Convert(**named), output)
    assert planned.parts == {"adapter (comfyui)": str(tmp_path / "in.safetensors")}
    result = recipe.run(Convert(**named), output)
    got = read_adapter(result.output, tiny_model())
    for name in want.matrices:
        torch.testing.assert_close(product(got, name), product(want, name), rtol=1e-6, atol=1e-5)
    assert [one.name for one in tmp_path.iterdir() if "unfinished" in one.name] == []


def test_an_adapter_and_its_layout_are_named_together(tmp_path):
    with pytest.raises(ValueError, match="the layout lora-peft is of adapters, and none is named"):
        Convert(model="pocket", to="lora-peft")
    with pytest.raises(ValueError, match="lora='a' is an adapter, and gguf is a layout of models"):
        Convert(model="pocket", to="gguf", lora="a")
    save_file(in_layout(adapter(), "kohya"), tmp_path / "a.safetensors")
    wrong = Convert(model="pocket", to="lora-peft", lora=str(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="of a model of another size"):
        recipe.plan(wrong, tmp_path / "out")


@pytest.mark.parametrize("to", ["comfyui-nvfp4", "gguf-nvfp4", "published-nvfp4", "diffusers"])
def test_sizes_that_shapes_do_not_tell_stay(to, tmp_path):
    """The pocket's heads have 48 channels, where all of Wan's have 128."""
    from longlive_models.layouts.sizes import transformer_config
    from longlive_models.wan import POCKET

    output = tmp_path / f"out{FORMATS[to].suffix}"
    convert(Path("pocket"), output, to, part="transformer")
    made = open_any(output / "transformer" if to == "diffusers" else output)
    assert transformer_config(made.shapes, made.config, output).num_heads == POCKET.num_heads
    if to != "diffusers":
        assert transformer_config(made.shapes, made.config, output) == POCKET
