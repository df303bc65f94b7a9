"""``save_pretrained`` and ``from_pretrained`` of converted models: one call each, bit for bit."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from longlive_core import float8
from longlive_core.module_swap import note_in_config
from longlive_core.nvfp4 import NVFP4Linear, convert_linears, decode_linears
from longlive_models.ecosystem import register_quantizers
from longlive_models.ecosystem.packed_layers import decode_all
from tests.ecosystem.foreign import MODELS
from tests.ecosystem.formats import FORMATS, PACKED


@pytest.fixture(autouse=True)
def registered():
    register_quantizers()


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def weights(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


@pytest.mark.parametrize("convert", FORMATS.values(), ids=FORMATS)
def test_a_round_trip_is_bit_exact(foreign, plain, convert, tmp_path):
    model = deepcopy(plain)
    convert(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert same(model, again)
    if convert is not FORMATS["training"]:  # whose folder is a plain model's
        assert foreign.error(again, model) < 1e-4  # memory lies elsewhere: sums in other orders
        kinds = [type(module) for _, module in model.named_modules()]
        assert kinds == [type(module) for _, module in again.named_modules()]


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_what_was_loaded_is_saved_and_loaded_again(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    convert_linears(model)
    for folder in ("one", "two"):
        model.save_pretrained(tmp_path / folder)
        model = type(model).from_pretrained(tmp_path / folder).eval()
    configs = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("one", "two")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert configs[0]["quantization_config"]["quant_method"] == "longlive"


def test_a_loaded_layer_is_as_it_was_configured(plain_models, tmp_path):
    model = deepcopy(plain_models["Wan"])
    PACKED["w4a4"](model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    layer = again.blocks[0].attn1.to_q
    assert layer.config == model.blocks[0].attn1.to_q.config
    assert layer.bias.dtype == layer.weight.dtype == torch.bfloat16


def test_two_formats_in_one_model(plain_models, tmp_path):
    foreign, model = MODELS["Wan"], deepcopy(plain_models["Wan"])
    convert_linears(model, keep=lambda linear, name: ".attn" not in name)
    FORMATS["fp8"](model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert foreign.error(again, model) < 1e-4
    forms = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["forms"]
    assert [form["format"] for form in forms] == ["nvfp4", "float8"]


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_a_folder_of_several_files(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    convert_linears(model)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same(type(model).from_pretrained(tmp_path), model)


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_a_part_that_was_converted_is_told_to_the_config(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    part = model.get_submodule(MODELS[name].blocks[0])
    assert convert_linears(part[0]).swapped
    note_in_config(model)
    model.save_pretrained(tmp_path)
    assert same(type(model).from_pretrained(tmp_path), model)


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_decoding_takes_the_word_back(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    convert_linears(model)
    decode_linears(model, torch.float32)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert same(type(model).from_pretrained(tmp_path), model)


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_the_libraries_own_dequantize(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    convert_linears(model)
    want = model.state_dict()
    model.save_pretrained(tmp_path / "packed")
    again = type(model).from_pretrained(tmp_path / "packed")
    again.dequantize()
    assert not any(isinstance(module, NVFP4Linear) for module in again.modules())
    again.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()
    kept = [key for key in want if key in again.state_dict()]
    assert all(torch.equal(again.state_dict()[key], want[key]) for key in kept)


@pytest.mark.parametrize("convert", [convert_linears, float8.convert_linears])
def test_a_packed_layer_under_two_names_is_decoded_under_both(convert):
    shared = nn.Linear(32, 32)
    model = nn.Sequential(nn.Sequential(shared, nn.Linear(32, 16)), shared)
    convert(model, keep=())
    assert model[1] is model[0][0] and type(shared) is not type(model[1])
    decode_all(model, torch.float32)
    assert [type(model[0][0]), type(model[0][1])] == [nn.Linear, nn.Linear]
    assert model[1] is model[0][0]


def test_without_the_quantizer_diffusers_refuses(plain_models, tmp_path):
    from diffusers.quantizers import auto

    model = deepcopy(plain_models["Wan"])
    convert_linears(model)
    model.save_pretrained(tmp_path)
    tables = auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING
    taken = [table.pop("longlive") for table in tables]
    try:
        with pytest.raises(ValueError, match="Unknown quantization type, got longlive"):
            type(model).from_pretrained(tmp_path)
    finally:
        for table, entry in zip(tables, taken, strict=True):
            table["longlive"] = entry


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_a_tensor_that_is_missing_is_refused(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    report = convert_linears(model)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights(tmp_path))
    del tensors[f"{report.swapped[0]}.weight_format"]
    save_file(tensors, weights(tmp_path), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{report.swapped[0]}.*(none of the files|cannot be)"):
        type(model).from_pretrained(tmp_path)


def test_scales_that_no_weight_has_are_refused(plain_models, tmp_path):
    model = deepcopy(plain_models["Wan"])
    FORMATS["fp8"](model)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights(tmp_path))
    tensors["blocks.0.attn1.to_q.weight_scales"].zero_()
    save_file(tensors, weights(tmp_path), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"(?s)attn1.to_q of the loaded Wan.*scales that are 0"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["blocks.9.attn1.to_q"]}, "packs blocks.9.attn1.to_q, which is missing"),
        ({"layers": ["blocks.0"]}, "packs blocks.0, which is a WanTransformerBlock"),
        ({"format": "int3"}, "names the format 'int3'"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused(plain_models, tmp_path, change, message):
    model = deepcopy(plain_models["Wan"])
    convert_linears(model)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["forms"][0] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["Wan", "Llama"])
def test_a_loaded_model_is_copied_and_pickled(plain_models, name, tmp_path):
    model = deepcopy(plain_models[name])
    convert_linears(model)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for other in (deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert same(other, again)
        assert type(other.hf_quantizer) is type(again.hf_quantizer)
        config = other.hf_quantizer.quantization_config
        assert config.to_dict() == again.hf_quantizer.quantization_config.to_dict()
        assert config.quant_method == "longlive"


def test_registering_twice_changes_nothing():
    assert register_quantizers() == register_quantizers() == ("diffusers", "transformers")
