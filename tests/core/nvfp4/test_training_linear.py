"""NVFP4TrainingLinear: each product against float64, unbiased rounding, and what it equals off."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longlive_core.nvfp4 import (
    NVFP4TrainingLinear,
    QuantizeConfig,
    ScaleRule,
    TrainingConfig,
    dequantize,
    quantize,
    rotate,
    unrotate,
)
from longlive_core.nvfp4.training_linear import OFF

ON = TrainingConfig()
NEAREST = replace(ON, gradient=replace(ON.gradient, rounding="nearest"))
ROWS = replace(ON, weight=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))


def gradients(layer, x, grad, seed=1):
    """y, dx, dW and db of one pass; random rounding starts from the seed."""
    x = x.detach().requires_grad_()
    y = layer(x)
    torch.manual_seed(seed)
    return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), grad)


def double(x, config, **options):
    return dequantize(quantize(x, config, **options)).double()


def columns(x, config, hadamard=True):
    """The transpose, padded to whole blocks of tokens, as the weight gradient takes it."""
    padded = nn.functional.pad(x.t(), (0, -x.shape[0] % 16))
    return double(rotate(padded) if hadamard else padded, config)


def model(linear, x, grad, config, seed=1):
    """The same quantized products in float64."""
    weight, bias = linear.weight.detach(), linear.bias.detach().double()
    y = double(x, config.activation) @ double(weight, config.weight).t() + bias
    torch.manual_seed(seed)
    along = double(grad, config.gradient)
    across = columns(grad, config.gradient, config.hadamard)
    dx = along @ double(weight.t().contiguous(), config.weight).t()
    dw = across @ columns(x, config.activation, config.hadamard).t()
    return y, dx, dw, grad.double().sum(0)


@pytest.mark.parametrize(
    "config",
    [ON, NEAREST, ROWS, replace(ON, hadamard=False)],
    ids=["recipe", "nearest", "rows", "no hadamard"],
)
@pytest.mark.parametrize("tokens", [48, 21])
def test_every_product_against_float64(config, tokens):
    linear = nn.Linear(64, 96)
    layer = NVFP4TrainingLinear.from_linear(linear, config)
    x, grad = torch.randn(tokens, 64), torch.randn(tokens, 96)
    for got, want in zip(gradients(layer, x, grad), model(linear, x, grad, config), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_any_size_and_ragged_tokens(tokens, inputs, outputs, bfloat):
    dtype = torch.bfloat16 if bfloat else torch.float32
    linear = nn.Linear(inputs * 16, outputs * 16)
    layer = NVFP4TrainingLinear.from_linear(linear, NEAREST)
    x = torch.randn(tokens, inputs * 16, dtype=dtype)
    grad = torch.randn(tokens, outputs * 16, dtype=dtype)
    with torch.autocast("cpu", dtype, enabled=bfloat):
        found = gradients(layer, x, grad)
    assert [one.dtype for one in found] == [dtype, dtype, torch.float32, torch.float32]
    for got, want in zip(found, model(linear, x, grad, NEAREST), strict=True):
        error = (got.double() - want).norm() / want.norm().clamp_min(1e-6)
        assert error <= (0.01 if bfloat else 1e-5)


@pytest.mark.parametrize("product", ["forward", "input_gradient", "weight_gradient"])
def test_each_product_can_be_left_alone(product):
    linear = nn.Linear(32, 48)
    config = replace(NEAREST, **{product: False})
    x, grad = torch.randn(20, 32), torch.randn(20, 48)
    plain = gradients(linear, x, grad)
    full = gradients(NVFP4TrainingLinear.from_linear(linear, NEAREST), x, grad)
    got = gradients(NVFP4TrainingLinear.from_linear(linear, config), x, grad)
    place = ["forward", "input_gradient", "weight_gradient"].index(product)
    for index in range(3):
        torch.testing.assert_close(got[index], (plain if index == place else full)[index])
        assert not torch.allclose(plain[index], full[index], rtol=1e-3)


def test_without_quantization_it_is_a_linear():
    linear = nn.Linear(33, 17)
    layer = NVFP4TrainingLinear.from_linear(linear, OFF)
    x, grad = torch.randn(2, 3, 33), torch.randn(2, 3, 17)
    for got, want in zip(gradients(layer, x, grad), gradients(linear, x, grad), strict=True):
        assert torch.equal(got, want)


COPIES = 512
UNLIKELY = math.log(2 * 256 / 1e-9) / 2
"""Of 256 means, each of independent bounded errors, one exceeds the bound once in 1e9 runs."""


def hoeffding(steps):
    """How far the mean of ``COPIES`` sums may be off; ``steps`` are the ranges of their terms."""
    return (steps.square().sum(1) * UNLIKELY / COPIES).sqrt() + 1e-5


def test_random_rounding_keeps_the_mean_of_the_input_gradient():
    """Every block's largest value is the tensor's, so that nothing saturates; a step is 1/3."""
    config = replace(ON, gradient=QuantizeConfig(rounding="stochastic"))
    layer = NVFP4TrainingLinear(16, 16, bias=False, config=config)
    grad = torch.rand(16, 16) * 2 - 1
    grad[:, 0] = 1.0
    weight = double(layer.weight.detach(), config.weight)
    _, dx, _ = gradients(layer, torch.randn(16 * COPIES, 16), grad.repeat(COPIES, 1))
    off = dx.double().unflatten(0, (COPIES, 16)).mean(0) - grad.double() @ weight
    bound = hoeffding(weight.t() / 3)
    assert (off.abs() <= bound).all()


def test_random_rounding_keeps_the_mean_of_the_weight_gradient():
    """The same for the rotated operand: the gradient is what rotates to such blocks."""
    config = replace(ON, gradient=QuantizeConfig(rounding="stochastic"))
    layer = NVFP4TrainingLinear(16, 16, bias=False, config=config)
    rotated = torch.rand(16, 16) * 2 - 1
    rotated[:, 0] = 1.0
    grad = unrotate(rotated).t().repeat(COPIES, 1)
    x = torch.randn(16, 16).repeat(COPIES, 1)
    right = columns(x[:16], config.activation)
    _, _, dw = gradients(layer, x, grad)
    off = dw.double() / COPIES - rotated.double() @ right.t()
    assert (off.abs() <= hoeffding(right / 3)).all()


def test_rounding_to_nearest_does_not():
    """What the two tests above can tell apart."""
    layer = NVFP4TrainingLinear(16, 16, bias=False, config=NEAREST)
    grad = torch.full((16, 16), 0.05)
    grad[:, 0] = 1.0
    weight = double(layer.weight.detach(), NEAREST.weight)
    _, dx, _ = gradients(layer, torch.randn(16, 16), grad)
    off = (dx.double() - grad.double() @ weight).abs()
    assert (off > hoeffding(weight.t() / 3)).any()


def test_rounding_differs_from_step_to_step_and_repeats_with_the_seed():
    layer = NVFP4TrainingLinear(32, 32)
    x, grad = torch.randn(16, 32), torch.randn(16, 32)
    first, again, other = (gradients(layer, x, grad, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], other[0])  # the forward is not random
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[2], other[2])


def test_the_input_gradient_uses_the_weight_of_the_forward():
    linear = nn.Linear(32, 48, bias=False)
    layer = NVFP4TrainingLinear.from_linear(linear, NEAREST)
    y, dx, _ = gradients(layer, torch.eye(32), torch.eye(32, 48))
    config = replace(NEAREST.weight)
    weight = dequantize(quantize(linear.weight.detach(), config))
    torch.testing.assert_close(y, weight.t())
    torch.testing.assert_close(dx[:, :32], weight[:32, :32])


def test_the_activation_is_kept_in_four_bits_for_the_backward():
    layer = NVFP4TrainingLinear(256, 256, bias=False)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(512, 256, requires_grad=True))
    packed = [t for t in kept if t is not layer.weight and t.data_ptr() != layer.weight.data_ptr()]
    assert sum(t.nbytes for t in packed) <= (512 + 256) * 256 * 0.57


def test_half_precision_has_room_for_the_rotation():
    """float16 up to its largest: a rotated number is up to four times as large."""
    for reduce_amax in (None, lambda amax: amax):
        layer = NVFP4TrainingLinear(32, 16, bias=False, config=NEAREST, reduce_amax=reduce_amax)
        x = torch.randn(32, 32).sign() * 60_000
        y, dx, dw = gradients(layer, (x / 2**16).half() * 2**16, torch.randn(32, 16).half() / 64)
        assert dx.isfinite().all()
        assert dw.isfinite().all()
        assert y.shape == (32, 16)
    *_, want = gradients(layer, x, torch.randn(32, 16))
    assert want.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32)])
@pytest.mark.parametrize("reduce_amax", [None, lambda amax: amax])
@pytest.mark.parametrize(
    "config",
    [ON, ROWS, replace(ON, forward=False), replace(ON, input_gradient=False), OFF],
)
def test_no_tokens_give_no_outputs_and_gradients_of_zero(shape, reduce_amax, config):
    layer = NVFP4TrainingLinear(32, 16, config=config, reduce_amax=reduce_amax)
    grad = torch.zeros(*shape[:-1], 16)
    y, dx, dw, db = gradients(layer, torch.zeros(shape), grad)
    assert (y.shape, dx.shape) == (grad.shape, shape)
    assert dw.shape == (16, 32) and not dw.any()
    assert db.shape == (16,) and not db.any()


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="NVFP4TrainingLinear multiplies rows of 32 numbers"):
        NVFP4TrainingLinear(32, 16)(torch.zeros(2, 16))


def test_a_frozen_weight_gets_no_gradient_and_costs_no_product():
    layer, kept = NVFP4TrainingLinear(32, 32), []
    layer.requires_grad_(False)
    x = torch.randn(16, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    packed = [one.nbytes for one in kept if one.data_ptr() != layer.weight.data_ptr()]
    assert packed == [32 * 16, 32 * 2, 4], "the packed weight, and nothing of x"
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert not layer(x.detach()).requires_grad


def test_activation_checkpointing_gives_the_same_gradients():
    layer = NVFP4TrainingLinear(32, 32)
    x, grad = torch.randn(16, 32), torch.randn(16, 32)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)

    for got, want in zip(
        gradients(Checkpointed(), x, grad), gradients(layer, x, grad), strict=True
    ):
        assert torch.equal(got, want)


def test_an_amax_of_several_ranks_is_used_for_activations_and_gradients():
    def largest_of_all(amax):
        return amax * 2

    linear = nn.Linear(32, 32)
    layer = NVFP4TrainingLinear.from_linear(linear, NEAREST, reduce_amax=largest_of_all)
    x, grad = torch.randn(16, 32), torch.randn(16, 32)

    def shared(x, config):
        return double(x, config, amax=x.abs().amax() * 2)

    y, dx, dw, _ = gradients(layer, x, grad)
    weight = double(linear.weight.detach(), NEAREST.weight)
    bias = linear.bias.detach().double()
    torch.testing.assert_close(
        y.double(), shared(x, NEAREST.activation) @ weight.t() + bias, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        dx.double(), shared(grad, NEAREST.gradient) @ weight, rtol=1e-5, atol=1e-5
    )
    left, right = rotate(grad.t().contiguous()), rotate(x.t().contiguous())
    want = shared(left, NEAREST.gradient) @ shared(right, NEAREST.activation).t()
    torch.testing.assert_close(dw.double(), want, rtol=1e-5, atol=1e-5)


def test_its_state_dict_is_that_of_a_linear():
    linear = nn.Linear(32, 16)
    layer = NVFP4TrainingLinear(32, 16)
    layer.load_state_dict(linear.state_dict())
    assert torch.equal(layer.weight, linear.weight)
    assert list(layer.state_dict()) == list(linear.state_dict())


def test_a_few_steps_learn():
    torch.manual_seed(0)
    layer, target = NVFP4TrainingLinear(16, 16), nn.Linear(16, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=2e-2)
    losses = []
    for _ in range(40):
        x = torch.randn(32, 16)
        loss = (layer(x) - target(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": QuantizeConfig(rounding="stochastic")}, "must be the same twice"),
        ({"weight": QuantizeConfig(rounding="stochastic")}, "must be the same twice"),
        ({"gradient": QuantizeConfig(block=(16, 16))}, "tokens must not share a scale"),
    ],
)
def test_configs_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)
