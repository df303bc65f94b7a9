"""NVFP4Linear: its values, its gradient, what casts, copies and sharding leave alone."""

import copy
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longlive_core.backends import BackendUnavailable
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4Linear,
    NVFP4TrainingLinear,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    quantize,
)
from longlive_core.nvfp4.linear import quantize_weight

W4A16 = LinearConfig()
W4A4 = LinearConfig(activation=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
SQUARE = LinearConfig(weight=QuantizeConfig(block=(16, 16)))
CONFIGS = pytest.mark.parametrize("config", [W4A16, W4A4, SQUARE], ids=["W4A16", "W4A4", "square"])


def layer_of(config, *, dtype=torch.float32, size=(64, 96), bias=True):
    linear = nn.Linear(*size, bias=bias, dtype=dtype)
    return linear, NVFP4Linear.from_linear(linear, config)


def bits(layer):
    return [buffer.clone() for buffer in layer.buffers()]


@CONFIGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (7, 64), (2, 3, 64)])
def test_the_product_of_what_the_operands_stand_for(config, dtype, shape):
    linear, layer = layer_of(config, dtype=dtype)
    x = torch.randn(shape, dtype=dtype)
    left = x.double()
    if config.activation is not None:
        left = dequantize(quantize(x, config.activation)).double()
    want = left @ dequantize(layer.weight).double().t() + linear.bias.double()
    if config.activation is None:  # the decoded weight is rounded to the type of x
        want = x.double() @ dequantize(layer.weight, dtype).double().t() + linear.bias.double()
    got = layer(x)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got.double(), want, rtol=torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps
    )


@settings(max_examples=12)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([W4A16, W4A4, SQUARE]),
)
def test_ragged_sizes(inputs, outputs, tokens, config):
    linear, layer = layer_of(config, size=(inputs, outputs))
    x = torch.randn(tokens, inputs)
    left = x if config.activation is None else dequantize(quantize(x, config.activation))
    want = left @ dequantize(layer.weight).t() + linear.bias
    torch.testing.assert_close(layer(x), want, rtol=1e-5, atol=1e-5)
    assert layer.to_linear(torch.float32).weight.shape == (outputs, inputs)


@pytest.mark.parametrize(("config", "low", "high"), [(W4A16, 0.08, 0.1), (W4A4, 0.11, 0.14)])
def test_the_error_is_that_of_the_format(config, low, high):
    """21.2 dB for Gaussian weights alone, 18.2 dB with activations."""
    linear, layer = layer_of(config, size=(512, 256))
    x = torch.randn(256, 512)
    assert low < (layer(x) - linear(x)).norm() / linear(x).norm() < high


@CONFIGS
@pytest.mark.parametrize("bias", [True, False])
def test_the_input_gets_the_gradient_of_the_decoded_weight(config, bias):
    _, layer = layer_of(config, bias=bias)
    x, grad = torch.randn(2, 5, 64, requires_grad=True), torch.randn(2, 5, 96)
    layer(x).backward(grad)
    want = grad.double() @ dequantize(layer.weight).double()
    torch.testing.assert_close(x.grad.double(), want, rtol=1e-5, atol=1e-5)
    if bias:
        torch.testing.assert_close(layer.bias.grad, grad.sum((0, 1)))


@CONFIGS
def test_casts_and_copies_leave_the_bits_alone(config):
    _, layer = layer_of(config)
    want, x = bits(layer), torch.randn(3, 64)
    for other in (
        copy.deepcopy(layer).to(torch.bfloat16),
        copy.deepcopy(layer).half(),
        copy.deepcopy(layer).double().float(),
        copy.deepcopy(nn.Sequential(layer)).to("cpu", torch.bfloat16)[0],
    ):
        assert all(map(torch.equal, bits(other), want))
    assert copy.deepcopy(layer).bfloat16().bias.dtype == torch.bfloat16
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@CONFIGS
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_goes_through_a_file_and_brings_its_rule(config, assign, tmp_path):
    from safetensors.torch import load_file, save_file

    other_rule = replace(config, weight=replace(config.weight, rule=ScaleRule.AMAX_4, bound=448))
    _, layer = layer_of(other_rule)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    empty = NVFP4Linear(64, 96, config=config, device="meta" if assign else "cpu")
    empty.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=assign)
    assert empty.config == other_rule
    x = torch.randn(3, 64)
    assert torch.equal(empty(x), layer(x))


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from longlive_core.nvfp4 import NVFP4Linear

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
layer = NVFP4Linear.from_linear(torch.nn.Linear(64, 96))
before, x = {k: v.clone() for k, v in layer.state_dict().items()}, torch.randn(3, 64)
want = layer(x)
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
fully_shard(layer, mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
assert torch.allclose(layer(x), want, atol=1e-2)
after = layer.state_dict()
assert all(torch.equal(after[k], v) for k, v in before.items() if k != "bias")
dist.destroy_process_group()
"""


def test_sharding_and_mixed_precision_leave_the_bits_alone():
    done = subprocess.run(  # a process group of its own
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: {k: v.bfloat16() for k, v in state.items()},
            "weight_codes is torch.bfloat16",
        ),
        (
            lambda state: state | {"weight_format": state["weight_format"] + 1},
            "format 2 with rule number 3 is not known",
        ),
        (
            lambda state: state | {"weight_format": state["weight_format"][:5]},
            "7 whole numbers, got 5",
        ),
        (
            lambda state: state | {"weight_amax": torch.tensor(math.nan).view(torch.int32)},
            "weight cannot be read: its tensor scale stands for a largest magnitude of nan",
        ),
        (
            lambda state: state | {"weight_amax": torch.tensor(-2.0).view(torch.int32)},
            "a largest magnitude of -2",
        ),
        (
            lambda state: state | {"weight_amax": torch.tensor(0, dtype=torch.int32)},
            "its tensor scale is 0, and its block scales are not",
        ),
        (
            lambda state: state | {"weight_scales": torch.full_like(state["weight_scales"], 127)},
            "384 of its 384 block scales are NaN",
        ),
        (
            lambda state: NVFP4Linear.from_linear(nn.Linear(32, 96)).state_dict(),
            r"of a weight \(96, 32\), and the layer's is \(96, 64\)",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(change, message):
    _, layer = layer_of(W4A16)
    before = bits(layer)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(change(layer.state_dict()))
    assert all(map(torch.equal, bits(layer), before))


@CONFIGS
@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)])
def test_no_rows_give_no_outputs_with_a_gradient(config, shape):
    _, layer = layer_of(config)
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (y.shape, x.grad.shape) == ((*shape[:-1], 96), shape)
    assert not layer.bias.grad.any()


@CONFIGS
def test_another_width_is_refused(config):
    _, layer = layer_of(config)
    with pytest.raises(ValueError, match=r"NVFP4Linear multiplies rows of 64 .*shape \(2, 96\)"):
        layer(torch.zeros(2, 96))


@CONFIGS
def test_it_follows_autocast(config):
    _, layer = layer_of(config)
    x = torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), layer(x.bfloat16()))


def test_an_amax_of_several_ranks_is_used():
    linear = nn.Linear(64, 32)
    seen = []

    def largest_of_all(amax):
        seen.append(amax.item())
        return amax * 3

    layer = NVFP4Linear.from_linear(linear, W4A4, reduce_amax=largest_of_all)
    x = torch.randn(4, 64)
    q = quantize(x, W4A4.activation, amax=x.abs().amax() * 3)
    want = dequantize(q) @ dequantize(layer.weight).t() + linear.bias
    torch.testing.assert_close(layer(x), want)
    assert seen == [x.abs().max().item()]


@pytest.mark.parametrize("change", ["loaded", "assigned", "loaded as a part", "moved"])
def test_a_prepared_weight_serves_until_the_layer_changes(change, monkeypatch):
    """The backend here keeps a copy of the weight, as those do that repack it."""

    def copied(weight, *, dtype, backend):
        dense = dequantize(weight, dtype).clone() + 1  # so that it shows
        return SimpleNamespace(multiply=lambda x, bias: x @ dense.t() + bias)

    monkeypatch.setattr("longlive_core.nvfp4.linear.prepare_weight", copied)
    _, layer = layer_of(W4A16)
    x = torch.randn(2, 3, 64)
    want = layer(x)
    layer.prepare(torch.float32)
    torch.testing.assert_close(layer(x), want + x.sum(-1, keepdim=True))
    if change == "moved":
        layer.to("cpu")
    else:
        _, other = layer_of(W4A16)
        holder, given = (nn.Sequential(layer), nn.Sequential(other))
        if change == "loaded as a part":
            holder.load_state_dict(given.state_dict())
        else:
            layer.load_state_dict(other.state_dict(), assign=change == "assigned")
        want = other(x)
    assert torch.equal(layer(x), want)


def test_a_prepared_weight_of_four_bits_in_and_out_is_none(monkeypatch):
    monkeypatch.setattr("longlive_core.nvfp4.linear.prepare_weight", None)  # not called
    _, layer = layer_of(W4A4)
    x = torch.randn(2, 64)
    want = layer(x)
    layer.prepare()
    assert torch.equal(layer(x), want)
    with pytest.raises(TypeError, match="not callable"):  # by the other kind it is
        layer_of(W4A16)[1].prepare()


def test_receipts_say_that_a_cpu_emulates_four_bits_and_does_not_emulate_storage():
    quantized, product = layer_of(W4A4)[1].receipts()
    assert (quantized.backend, product.backend) == ("reference", "emulated")
    assert "needs a CUDA device" in product.reasons["cublas"]
    assert layer_of(W4A16)[1].receipts()[0].backend == "decode"
    _, strict = layer_of(replace(W4A4, strict=True))
    with pytest.raises(BackendUnavailable, match="strict=True refuses emulation"):
        strict(torch.randn(2, 64))
    _, named = layer_of(replace(W4A4, backend="cublas"))
    with pytest.raises(BackendUnavailable, match="cannot use backend 'cublas' on cpu"):
        named(torch.randn(2, 64))


@pytest.mark.parametrize("block", [(1, 16), (16, 16)])
@pytest.mark.parametrize("rows", [1024, 1025, 2100])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_weight_of_several_pieces_is_quantized_as_it_is_whole(block, rows, device):
    """Pieces have 1,024 rows; the largest number may be in any of them."""
    config = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, block=block)
    for at in (0, rows - 1):
        weight = torch.randn(rows, 32)
        weight[at, 5] = 40.0
        got, want = quantize_weight(weight, config, device=device), quantize(weight, config)
        assert got.shape == want.shape == (rows, 32)
        for name, tensor in want.tensors().items():
            assert torch.equal(
                got.tensors()[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)
            ), name


@settings(max_examples=12)
@given(st.integers(1, 50), st.sampled_from([(1, 16), (16, 16)]))
def test_a_weight_is_quantized_in_parts_as_it_is_whole(rows, block):
    config = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE, block=block)
    weight = torch.randn(rows, 48)
    got, want = quantize_weight(weight, config, rows=16), quantize(weight, config)
    assert torch.equal(got.codes, want.codes)
    assert torch.equal(got.block_scales.view(torch.uint8), want.block_scales.view(torch.uint8))
    assert torch.equal(got.amax, want.amax)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": QuantizeConfig(rounding="stochastic")}, "weight.rounding='stochastic'"),
        ({"activation": QuantizeConfig(block=(16, 16))}, "tokens must not share a scale"),
    ],
)
def test_configs_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LinearConfig(**options)


def test_a_weight_with_several_amax_is_refused():
    weight = quantize(torch.randn(4, 32), amax=torch.tensor([3.0, 4.0]))
    with pytest.raises(ValueError, match="one amax, got shape .* and 2 amax"):
        NVFP4Linear.from_packed(weight)


def test_a_layer_of_zeros_is_loaded():
    linear = nn.Linear(64, 96, bias=False)
    nn.init.zeros_(linear.weight)
    dead = NVFP4Linear.from_linear(linear)
    layer = NVFP4Linear(64, 96, bias=False)
    layer.load_state_dict(dead.state_dict())
    assert not layer(torch.randn(2, 64)).any()


@pytest.mark.parametrize("size", [(-1, 4), (4, -1)])
def test_sizes_that_are_none_are_refused(size):
    for make in (NVFP4Linear, NVFP4TrainingLinear):
        with pytest.raises(ValueError, match="_features is at least 0"):
            make(*size)
