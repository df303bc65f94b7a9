"""What a precision makes of a model, checked against the layers themselves, and what it reports."""

import copy

import pytest
import torch
from torch import nn

from longlive_core import float8, nvfp4
from longlive_core.backends import BackendUnavailable
from longlive_core.module_swap import KEEP
from longlive_models import LongLivePipeline
from longlive_models.checkpoints.nvfp4 import PackedConfig
from longlive_models.checkpoints.nvfp4_packing import pack_model_folder
from longlive_models.precision import in_short, stored_precision
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from tests.models.tiny_pipeline import tiny_parts, tiny_pipeline, write_tiny_folder

NAME = "blocks.1.ffn.0"
KEPT = "time_projection.1"
MSE = nvfp4.QuantizeConfig(rule=nvfp4.ScaleRule.FOUR_OVER_SIX_MSE)
MAE = nvfp4.QuantizeConfig(rule=nvfp4.ScaleRule.FOUR_OVER_SIX_MAE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_tiny_folder(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def packed(plain):
    """Packed by a rule of its own for inputs, with one linear more left as it was."""
    config = PackedConfig(weight=MSE, activation=MAE)
    keep = (*KEEP, "blocks.0.ffn.2")
    return pack_model_folder(plain, plain.with_name("packed"), config, keep=keep).folder


def load(folder, weights, **how) -> LongLivePipeline:
    return LongLivePipeline.from_pretrained(str(folder), device="cpu", weights=weights, **how)


def layer(pipe, name=NAME) -> nn.Module:
    return pipe.transformer.get_submodule(name)


def original(name=NAME) -> nn.Linear:
    return tiny_parts()[0].get_submodule(name)


@pytest.mark.parametrize("weights", ["nvfp4", "nvfp4-w4a4"])
def test_a_plain_model_is_packed_when_it_is_loaded(plain, weights):
    made = layer(load(plain, weights))
    assert isinstance(made, nvfp4.NVFP4Linear)
    wanted = nvfp4.quantize(original().weight.detach(), MSE)  # from fp32, not from bf16 once more
    assert torch.equal(made.weight.codes, wanted.codes)
    assert made.config.activation == (MSE if weights == "nvfp4-w4a4" else None)
    kept = layer(load(plain, weights), KEPT)
    assert torch.equal(kept.weight, original(KEPT).weight.bfloat16().float())


def test_a_packed_model_stays_as_it_was_packed(packed):
    pipe = load(packed, "nvfp4-w4a4")
    assert layer(pipe).config.activation == MAE
    assert type(layer(pipe, "blocks.0.ffn.2")) is nn.Linear
    assert "the files hold it unpacked" in str(pipe.receipts()["blocks.0.ffn.2"][0])
    assert layer(load(packed, "nvfp4")).config.activation is None


@pytest.mark.parametrize(("weights", "kind"), [("fp32", nn.Linear), ("fp8", float8.Float8Linear)])
def test_other_precisions_decode_what_is_packed(packed, weights, kind):
    pipe = load(packed, weights)
    assert type(layer(pipe)) is kind
    value = nvfp4.dequantize(nvfp4.quantize(original().weight.detach(), MSE))
    if weights == "fp8":
        value = float8.dequantize(float8.quantize(value))
        assert torch.equal(float8.dequantize(layer(pipe).weight), value)
    else:
        assert torch.equal(layer(pipe).weight, value)
        assert "not nvfp4: packed in its file, decoded while it was loaded" in str(
            pipe.receipts()[NAME][0]
        )
    assert stored_precision(packed) == "nvfp4, four_over_six_mse"


@pytest.mark.parametrize("weights", ["fp8", "nvfp4", "nvfp4-w4a4"])
def test_the_model_computes_with_the_layers_that_it_names(plain, weights):
    """The pipeline's transformer against one that is converted by hand."""
    pipe, model = load(plain, weights), copy.deepcopy(tiny_parts()[0])
    if weights == "fp8":
        float8.convert_linears(model)
    else:
        activation = MSE if weights == "nvfp4-w4a4" else None
        nvfp4.convert_linears(model, nvfp4.LinearConfig(activation=activation))
    Runtime.choose(RuntimeOptions(device="cpu", weights=weights)).put(model)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 2, 8, 8, generator=generator)
    text = torch.randn(1, 1, 8, 16, generator=generator)
    times = torch.full((1, 2), 500.0)
    with torch.no_grad():
        out, wanted = (m(latents, times, text) for m in (pipe.transformer, model))
        exact = tiny_parts()[0](latents, times, text)
    assert torch.equal(out, wanted)
    assert not torch.equal(out, exact)
    assert pipe("a red circle", seconds=0.5, steps=1).frames.float().std() > 0


def test_every_linear_has_its_receipt(plain):
    pipe = load(plain, "nvfp4-w4a4")
    found = pipe.receipts()
    linears = {
        name
        for name, module in pipe.transformer.named_modules()
        if isinstance(module, nn.Linear | nvfp4.NVFP4Linear)
    }
    assert set(found) == linears | {"attention", "kv_cache", "fused", "vae"}
    assert [receipt.backend for receipt in found["fused"]] == ["torch", "torch"]
    quantizing, product = found[NAME]
    assert (quantizing.backend, product.backend) == ("reference", "emulated")
    assert "CUDA device" in product.reasons["cublas"]
    assert str(found[KEPT][0]) == (
        "linear: torch on cpu (asked for nvfp4-w4a4); not nvfp4-w4a4: as 'time_projection' says"
    )
    lines = in_short(found)
    assert lines[0].startswith("attention: sdpa on cpu")
    assert any(
        line.startswith("nvfp4.matmul: emulated") and "and 17 more]" in line for line in lines
    )


def test_strict_refuses_what_a_cpu_would_emulate(plain):
    for weights in ("fp8", "nvfp4-w4a4"):
        with pytest.raises(BackendUnavailable, match="strict=True refuses emulation"):
            load(plain, weights, strict=True)
    assert layer(load(plain, "nvfp4", strict=True)).config.strict


def test_a_named_backend_is_taken(plain):
    pipe = load(plain, "nvfp4", linear="reference")
    assert pipe.receipts()[NAME][0].backend == "reference"
    with pytest.raises(BackendUnavailable, match="has no backend 'magic'"):
        load(plain, "fp8", linear="magic")


def test_parts_that_are_put_together_by_hand_get_their_precision_too():
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", weights="nvfp4")))
    assert isinstance(layer(pipe), nvfp4.NVFP4Linear)
    again = LongLivePipeline(
        pipe.transformer,
        pipe.vae,
        pipe.text,
        settings=pipe.settings,
        runtime=Runtime.choose(RuntimeOptions(device="cpu", weights="bf16")),
    )
    assert torch.equal(
        layer(again).weight,
        nvfp4.dequantize(nvfp4.quantize(original().weight.detach(), MSE)).bfloat16().float(),
    )
