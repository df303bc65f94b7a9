"""Float8TrainingLinear: each product to the last bit of its rounded operands, and its error."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from longlive_core.backends import BackendUnavailable
from longlive_core.float8 import (
    Float8Config,
    Float8Linear,
    Float8TrainingConfig,
    Float8TrainingLinear,
    convert_linears,
    dequantize,
    quantize,
)
from longlive_core.module_swap import receipts

ON = Float8TrainingConfig()
PRODUCTS = ("forward", "input_gradient", "weight_gradient")
OFF = Float8TrainingConfig(**dict.fromkeys(PRODUCTS, False))


def gradients(layer, x, grad):
    """y, dx, dW and db of one pass."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), grad)


def double(x):
    """A matrix rounded by its rows, in float64."""
    return dequantize(quantize(x)).double()


def model(linear, x, grad):
    """The products of the rounded operands in float64."""
    weight, bias = linear.weight.detach(), linear.bias.detach().double()
    y = double(x) @ double(weight).t() + bias
    dx = double(grad) @ double(weight.t()).t()
    dw = double(grad.t()) @ double(x.t()).t()
    return y, dx, dw, grad.double().sum(0)


def exact(linear, x, grad):
    """The products of the operands as they are, in float64."""
    weight, bias = linear.weight.detach().double(), linear.bias.detach().double()
    x, grad = x.double(), grad.double()
    return x @ weight.t() + bias, grad @ weight, grad.t() @ x, grad.sum(0)


@pytest.mark.parametrize("tokens", [48, 21, 1])
def test_every_product_is_that_of_the_rounded_operands(tokens):
    linear = nn.Linear(64, 96)
    layer = Float8TrainingLinear.from_linear(linear)
    x, grad = torch.randn(tokens, 64), torch.randn(tokens, 96)
    for got, want in zip(gradients(layer, x, grad), model(linear, x, grad), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def rounding(x):
    """How far a number of a matrix can be from its code: half a step of E4M3 in its row's scale."""
    scale = x.abs().amax(1, keepdim=True) / 448
    return torch.maximum(x.abs() / 16, scale / 1024)


def bound(a, b):
    """How far a product of rounded matrices can be from ``a b^T``."""
    a, b = a.double(), b.double()
    off_a, off_b = rounding(a), rounding(b)
    return a.abs() @ off_b.t() + off_a @ b.abs().t() + off_a @ off_b.t()


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(-8, 8), st.integers(0, 2**31))
def test_gradients_are_as_near_to_float64_as_the_format_allows(tokens, power, seed):
    torch.manual_seed(seed)
    linear = nn.Linear(32, 48)
    layer = Float8TrainingLinear.from_linear(linear)
    x = torch.randn(tokens, 32) * torch.randn(32).exp() * 2.0**power
    grad = torch.randn(tokens, 48) * torch.randn(tokens, 1).exp() * 2.0 ** (-2 * power)
    weight = linear.weight.detach()
    bounds = bound(x, weight), bound(grad, weight.t()), bound(grad.t(), x.t())
    found, wanted = gradients(layer, x, grad), exact(linear, x, grad)
    for got, want, most in zip(found, wanted, bounds, strict=False):
        slack = 1e-5 * want.abs() + 1e-5 * most
        assert ((got.double() - want).abs() <= most + slack).all()


def test_errors_are_those_of_three_bits():
    """Of Gaussian operands the whole product is off by 3.7 %: 28.5 dB."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 128)
    layer = Float8TrainingLinear.from_linear(linear)
    x, grad = torch.randn(256, 128), torch.randn(256, 128)
    found, wanted = gradients(layer, x, grad), exact(linear, x, grad)
    for got, want in zip(found[:3], wanted, strict=False):
        assert 0.01 < (got.double() - want).norm() / want.norm() < 0.05


def test_under_autocast_products_are_bfloat16_and_gradients_float32():
    linear = nn.Linear(64, 96)
    layer = Float8TrainingLinear.from_linear(linear)
    x, grad = torch.randn(40, 64).bfloat16(), torch.randn(40, 96).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(layer, x, grad)
    assert [one.dtype for one in found] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for got, want in zip(found, model(linear, x, grad), strict=True):
        assert (got.double() - want).norm() / want.norm() < 0.005


def test_gradients_of_parts_add_up_in_float32():
    """A bfloat16 sum would lose a part of 1/512 beside 1; the master weight's gradient does not."""
    layer = Float8TrainingLinear(16, 16, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        for size in (1.0, 1 / 512):
            x = torch.eye(16) * size
            layer(x).backward(torch.eye(16, dtype=torch.bfloat16))
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad.diagonal(), torch.full((16,), 1 + 1 / 512))


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_can_be_left_alone(product):
    linear = nn.Linear(32, 48)
    x, grad = torch.randn(20, 32), torch.randn(20, 48)
    plain = gradients(linear, x, grad)
    full = gradients(Float8TrainingLinear.from_linear(linear), x, grad)
    some = Float8TrainingLinear.from_linear(linear, replace(ON, **{product: False}))
    place = PRODUCTS.index(product)
    for index, got in enumerate(gradients(some, x, grad)[:3]):
        torch.testing.assert_close(got, (plain if index == place else full)[index])
        assert not torch.allclose(plain[index], full[index], rtol=1e-3)


def test_without_any_it_is_a_linear():
    linear = nn.Linear(32, 16)
    layer = Float8TrainingLinear.from_linear(linear, OFF)
    x, grad = torch.randn(2, 3, 32), torch.randn(2, 3, 16)
    for got, want in zip(gradients(layer, x, grad), gradients(linear, x, grad), strict=True):
        assert torch.equal(got, want)


def test_the_activation_is_kept_in_eight_bits_for_the_backward():
    layer, kept = Float8TrainingLinear(256, 256, bias=False), []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(512, 256, requires_grad=True))
    others = [t for t in kept if t.data_ptr() != layer.weight.data_ptr()]
    assert sum(t.nbytes for t in others) == 512 * 256 + 4 * 256


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32)])
@pytest.mark.parametrize("config", [ON, replace(ON, forward=False), OFF])
def test_no_tokens_give_no_outputs_and_gradients_of_zero(shape, config):
    layer = Float8TrainingLinear(32, 16, config=config, reduce_amax=lambda amax: amax)
    grad = torch.zeros(*shape[:-1], 16)
    y, dx, dw, db = gradients(layer, torch.zeros(shape), grad)
    assert (y.shape, dx.shape) == (grad.shape, shape)
    assert dw.shape == (16, 32) and not dw.any()
    assert db.shape == (16,) and not db.any()


def test_ranks_with_other_tokens_together_have_the_gradient_of_one():
    linear = nn.Linear(32, 48)
    x, grad = torch.randn(32, 32), torch.randn(32, 48)
    x[3], grad[20] = 100.0, 50.0
    whole = gradients(Float8TrainingLinear.from_linear(linear), x, grad)
    largest = {32: x.abs().amax(0), 48: grad.abs().amax(0)}
    layer = Float8TrainingLinear.from_linear(linear, reduce_amax=lambda amax: largest[len(amax)])
    parts = [gradients(layer, x[own], grad[own]) for own in (slice(0, 16), slice(16, 32))]
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([part[index] for part in parts]), whole[index])
    torch.testing.assert_close(parts[0][2] + parts[1][2], whole[2], rtol=1e-5, atol=1e-4)
    alone = Float8TrainingLinear.from_linear(linear)
    apart = [gradients(alone, x[own], grad[own])[2] for own in (slice(0, 16), slice(16, 32))]
    assert not torch.allclose(apart[0] + apart[1], whole[2], rtol=1e-5, atol=1e-4)


def test_a_frozen_weight_gets_no_gradient_and_costs_no_product():
    layer, kept = Float8TrainingLinear(32, 32), []
    layer.requires_grad_(False)
    x = torch.randn(16, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert [one.data_ptr() for one in kept] == [layer.weight.data_ptr()], "nothing of x"
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert not layer(x.detach()).requires_grad


def test_activation_checkpointing_gives_the_same_gradients():
    layer = Float8TrainingLinear(32, 32)
    x, grad = torch.randn(16, 32), torch.randn(16, 32)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)

    both = gradients(Checkpointed(), x, grad), gradients(layer, x, grad)
    assert all(map(torch.equal, *both))


def test_a_few_steps_learn_and_small_ones_move_the_master_weight():
    torch.manual_seed(0)
    layer, target = Float8TrainingLinear(16, 16), nn.Linear(16, 16)
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
    before, rounded = layer.weight.detach().clone(), quantize(layer.weight).codes.float()
    optimizer.param_groups[0]["lr"] = 1e-6
    optimizer.step()
    moved = (layer.weight - before).abs()
    assert (moved > 0).float().mean() > 0.9 and moved.max() < 2e-5
    assert torch.equal(quantize(layer.weight).codes.float(), rounded)


def test_it_is_packed_and_its_state_dict_is_that_of_a_linear():
    model = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 33))
    weight = model[0].weight
    report = convert_linears(model, ON, keep=())
    assert report.swapped == ("0",)
    assert "not both divisible by 16" in report.kept["2"]
    assert model[0].weight is weight
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    convert_linears(model, Float8Config(), keep=())
    assert isinstance(model[0], Float8Linear)
    assert torch.equal(dequantize(model[0].weight), dequantize(quantize(weight)))


def test_its_receipt_says_that_it_is_emulated():
    layer = Float8TrainingLinear(32, 16)
    *_, product = layer.receipts()
    assert (product.operation, product.backend) == ("float8.matmul", "reference")
    assert "needs a CUDA device" in product.reasons["scaled_mm"]
    assert product.emulated
    assert "reference on cpu (asked for auto), emulated; not scaled_mm" in str(product)
    assert receipts(nn.Sequential(layer))["0"][-1] == product
    strict = Float8TrainingLinear(32, 16, config=replace(ON, strict=True))
    with pytest.raises(BackendUnavailable, match="float8.matmul"):
        strict.receipts()
    with pytest.raises(BackendUnavailable, match="float8.matmul"):
        strict(torch.zeros(2, 32))


def test_other_widths_are_refused():
    with pytest.raises(ValueError, match="Float8TrainingLinear multiplies rows of 32 numbers"):
        Float8TrainingLinear(32, 16)(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="sizes 33 and 16 are not both divisible by 16"):
        Float8TrainingLinear(33, 16)


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from longlive_core.float8 import Float8TrainingLinear

counted = CompileCounterWithBackend("aot_eager")
layer = Float8TrainingLinear(64, 96)
compiled = torch.compile(layer, fullgraph=True, backend=counted)
for seed in range(3):
    torch.manual_seed(seed)
    x, grad = torch.randn(21, 64, requires_grad=True), torch.randn(21, 96)
    found = []
    for forward in (compiled, layer):
        y = forward(x)
        found.append((y, *torch.autograd.grad(y, (x, *layer.parameters()), grad)))
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
assert counted.frame_count == 1, counted.frame_count
"""


def test_it_compiles_whole_and_once():
    done = subprocess.run(  # checked shapes cannot be traced
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FP8 products need a CUDA device")
def test_on_a_gpu_it_has_the_products_of_the_emulation():
    torch.manual_seed(0)
    linear = nn.Linear(512, 768, device="cuda")
    x, grad = (torch.randn(1000, size, device="cuda").bfloat16() for size in (512, 768))
    with torch.autocast("cuda", torch.bfloat16):
        fast = Float8TrainingLinear.from_linear(linear, replace(ON, strict=True))
        slow = Float8TrainingLinear.from_linear(linear, replace(ON, backend="reference"))
        assert fast.receipts()[-1].backend == "scaled_mm"
        found, wanted = (gradients(layer, x, grad) for layer in (fast, slow))
    for got, want in zip(found, wanted, strict=True):
        assert (got.float() - want.float()).norm() / want.float().norm() < 0.003
