"""Linears of foreign models: which are packed, which stay, and what it costs."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from longlive_core.module_swap import KEEP
from longlive_core.nvfp4 import NVFP4Linear, convert_linears, decode_linears, plan_conversion
from tests.architecture.source import ROOT
from tests.ecosystem.foreign import MODELS, Foreign
from tests.ecosystem.formats import FORMATS, PACKED, w4a16

MODULATION = ("norm", "norm1", "norm2", "norm1_context", "norm_out")


def by_hand(foreign: Foreign, model: nn.Module) -> set[str]:
    """What one would pack who knows the model: attention and feed-forward of the main blocks."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(tuple(f"{part}." for part in foreign.blocks))
        and not set(MODULATION) & set(name.split("."))
    }


def test_attention_and_feed_forward_are_packed_and_the_ends_stay(foreign, plain):
    plan = plan_conversion(plain)
    assert set(plan.swapped) == by_hand(foreign, plain)
    linears = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    assert linears - set(plan.swapped) == set(plan.kept)


def test_the_report_says_why_each_stays(plain_models):
    kept = {name: plan_conversion(model).kept for name, model in plain_models.items()}
    outside = "it lies outside the model's blocks, as first and last layers do"
    assert kept["Wan"]["proj_out"] == kept["Llama"]["lm_head"] == outside
    assert kept["Wan"]["condition_embedder.time_proj"] == outside
    assert kept["LTX"]["caption_projection.linear_1"] == outside
    assert kept["Flux"]["x_embedder"] == outside
    assert kept["Flux"]["transformer_blocks.0.norm1.linear"] == "as 'norm*' says"
    refiner = "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"
    assert kept["HunyuanVideo"][refiner] == "it is part of an embedding"


def test_a_tiny_wan_is_as_right_as_with_layers_that_were_picked_by_hand(plain_models):
    foreign, plain = MODELS["Wan"], plain_models["Wan"]
    default, hand, everything = (deepcopy(plain) for _ in range(3))
    convert_linears(default)
    picked = by_hand(foreign, plain)
    convert_linears(hand, keep=lambda linear, name: name not in picked)
    convert_linears(everything, keep=())
    errors = [foreign.error(model, plain) for model in (default, hand, everything)]
    assert 0 < errors[0] <= 1.2 * errors[1]
    assert errors[2] > 3 * errors[0]


@pytest.mark.parametrize("convert", FORMATS.values(), ids=FORMATS)
def test_every_model_runs_in_every_format(foreign, plain, convert):
    model = deepcopy(plain)
    report = convert(model)
    assert len(report.swapped) == len(by_hand(foreign, plain))
    bound = 0.06 if convert is FORMATS["fp8"] else 0.3
    assert 0 < foreign.error(model, plain) < bound


def test_decoded_linears_give_what_packed_ones_gave(foreign, plain):
    model = deepcopy(plain)
    convert_linears(model)
    packed = foreign.run(model)
    decode_linears(model, torch.float32)
    assert not any(isinstance(module, NVFP4Linear) for module in model.modules())
    torch.testing.assert_close(foreign.run(model), packed)


def test_tied_words_stay(plain_models):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**plain_models["Llama"].config.to_dict(), "tie_word_embeddings": True})
    plan = plan_conversion(LlamaForCausalLM(config))
    assert plan.kept["lm_head"] == "its weight is shared with model.embed_tokens"


def test_a_function_keeps_what_it_names(plain_models):
    plain = plain_models["Wan"]

    def cross_attention(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and ".attn2." in name

    plan = plan_conversion(plain, keep=(*KEEP, cross_attention))
    assert plan.kept["blocks.0.attn2.to_q"] == "as the function cross_attention says"
    assert "blocks.0.attn1.to_q" in plan.swapped
    assert plan.kept["proj_out"].startswith("it lies outside")


@pytest.mark.parametrize("convert", PACKED.values(), ids=PACKED)
def test_fused_projections_are_the_decoded_ones(plain_models, convert):
    """Diffusers makes one plain linear of three: of the values that the packed ones hold."""
    foreign, model = MODELS["Wan"], deepcopy(plain_models["Wan"])
    convert(model)
    attention = model.blocks[0].attn1
    layers = attention.to_q, attention.to_k, attention.to_v
    want = [layer.to_linear(torch.float32) for layer in layers]
    apart = foreign.run(model)
    model.fuse_qkv_projections()
    assert torch.equal(attention.to_qkv.weight, torch.cat([linear.weight for linear in want]))
    if convert is w4a16:
        torch.testing.assert_close(foreign.run(model), apart)


COMPILED = """
import sys
import torch
from tests.ecosystem.formats import PACKED
from tests.ecosystem.foreign import MODELS

foreign = MODELS[sys.argv[1]]
for convert in PACKED.values():
    model = foreign.built()
    convert(model)
    torch.compiler.reset()
    with torch.no_grad():
        want = foreign.run(model)
        got = foreign.run(torch.compile(model, fullgraph=True, backend="aot_eager"))
    error = float((got - want).norm() / want.norm())
    assert error < 1e-3, (convert, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_compiles_whole(name):
    """In a process of its own: the tests' checks of shapes are not made to be compiled."""
    command = [sys.executable, "-c", COMPILED, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
