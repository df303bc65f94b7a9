"""Products against float64, their gradients, what compiles, and what refuses."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.nvfp4 import (
    MATMUL,
    WEIGHT_MATMUL,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    matmul,
    matmul_request,
    prepare_weight,
    quantize,
)
from longlive_core.nvfp4.matmul_backends import MatmulRequest
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import configs, make, matrices

W4A4 = ["emulated", "reference"]
W4A16 = ["decode", "reference"]


def exact(a, b):
    return a.dequantize().double().flatten(0, -2) @ b.dequantize().double().t()


def close(got, want, tolerance):
    got, want = got.detach(), want.detach()
    torch.testing.assert_close(
        got.double().view(want.shape),
        want,
        rtol=0,
        atol=tolerance * float(want.abs().max() + 1e-30),
    )


@pytest.mark.parametrize("backend", W4A4)
@given(
    a=matrices(max_rows=20, max_cols=50),
    outputs=st.integers(1, 40),
    left=configs(),
    right=configs(),
    seed=st.integers(0, 99),
)
def test_four_bits_on_both_sides(backend, a, outputs, left, right, seed):
    a = quantize(a, left)
    b = quantize(make("normal", outputs, a.shape[1], seed), right)
    got = matmul(a, b, dtype=torch.float32, backend=backend)
    assert got.shape == (a.shape[0], outputs)
    scale = float(a.dequantize().abs().max() * b.dequantize().abs().max()) * a.shape[1]
    assert (got.double() - exact(a, b)).abs().max() <= 1e-6 * scale + 1e-30


@pytest.mark.parametrize("backend", W4A4)
def test_bias_leading_dimensions_and_types(backend):
    a, b = quantize(torch.randn(2, 3, 40)), quantize(torch.randn(24, 40))
    bias = torch.randn(24)
    want = (exact(a, b) + bias.double()).view(2, 3, 24)
    close(matmul(a, b, bias=bias, dtype=torch.float32, backend=backend), want, 1e-6)
    half = matmul(a, b, bias=bias.bfloat16(), backend=backend)
    assert half.dtype == torch.bfloat16
    close(half, want, 1e-2)


def test_groups_with_an_amax_each_keep_it():
    x, w = make("row scales", 8, 64), make("row scales", 6, 64)
    a = quantize(x, amax=x.view(4, -1).abs().amax(1))
    b = quantize(w, amax=w.view(2, -1).abs().amax(1))
    for backend in W4A4:
        got = matmul(a, b, dtype=torch.float32, backend=backend).double()
        torch.testing.assert_close(got, exact(a, b), rtol=1e-4, atol=1e-12)


def test_emulation_multiplies_exact_products():
    """It equals the sum of code times scale on both sides, exactly, where float32 can hold it."""
    a, b = (quantize(make("ties", 8, 16, seed), amax=torch.tensor(2688.0)) for seed in (1, 2))
    assert_bitwise_equal(matmul(a, b, dtype=torch.float32, backend="emulated"), exact(a, b).float())


@pytest.mark.parametrize("backend", W4A16)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inner", "outputs"), [(64, 32), (50, 20)])
def test_four_bits_in_the_weight_with_its_gradients(backend, dtype, inner, outputs):
    x = torch.randn(2, 3, inner).to(dtype).requires_grad_()
    bias = torch.randn(outputs).to(dtype).requires_grad_()
    b = quantize(torch.randn(outputs, inner), QuantizeConfig(block=(16, 16)))
    y = matmul(x, b, bias=bias, backend=backend)
    assert y.dtype == dtype
    weight = b.dequantize().double()
    x64, bias64 = (t.detach().double().requires_grad_() for t in (x, bias))
    want = x64 @ weight.t() + bias64
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    close(y, want, tolerance)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    want.backward(upstream.double())
    close(x.grad, x64.grad, tolerance)
    close(bias.grad, bias64.grad, tolerance)


def test_a_weight_prepared_once_gives_the_same_product():
    b, x, bias = quantize(torch.randn(32, 64)), torch.randn(5, 64), torch.randn(32)
    ready = prepare_weight(b, dtype=torch.float32)
    assert ready.receipt.backend == "decode"
    assert_bitwise_equal(ready.multiply(x, bias), matmul(x, b, bias=bias))
    with pytest.raises(BackendUnavailable, match="'humming' on cpu: it needs a CUDA device"):
        prepare_weight(b, backend="humming")


def test_the_bias_of_a_product_of_codes_has_a_gradient():
    bias = torch.zeros(24, requires_grad=True)
    matmul(quantize(torch.randn(5, 32)), quantize(torch.randn(24, 32)), bias=bias).sum().backward()
    assert_bitwise_equal(bias.grad, torch.full((24,), 5.0))


def test_operands_that_do_not_fit_are_refused():
    b = quantize(torch.randn(8, 32))
    for a in (torch.randn(4, 48), quantize(torch.randn(4, 48))):
        with pytest.raises(ValueError, match=r"a of shape \(4, 48\) and b of shape \(8, 32\)"):
            matmul(a, b)
    with pytest.raises(ValueError, match=r"b of shape \[out, in\]"):
        matmul(torch.randn(4, 32), quantize(torch.randn(2, 8, 32)))


def test_strict_refuses_emulation_and_says_why_the_rest_cannot_run():
    a, b = quantize(torch.randn(4, 32)), quantize(torch.randn(16, 32))
    with pytest.raises(BackendUnavailable, match="cublas: it needs a CUDA device.*emulates"):
        matmul(a, b, strict=True)
    with pytest.raises(BackendUnavailable, match="'emulated' on cpu: it emulates"):
        matmul(a, b, backend="emulated", strict=True)
    matmul(torch.randn(4, 32), b, strict=True)  # decoding a weight imitates nothing


def test_receipts():
    a, b = quantize(torch.randn(4, 32)), quantize(torch.randn(16, 32))
    receipt = MATMUL.receipt(matmul_request(a, b))
    assert receipt.backend == "emulated"
    assert set(receipt.reasons) == {"cublas", "transformer_engine", "emulated", "reference"}
    assert MATMUL.named("emulated").emulates
    assert not WEIGHT_MATMUL.named("decode").emulates
    x = torch.randn(4, 32, requires_grad=True)
    assert matmul_request(x, b).needs_grad
    assert WEIGHT_MATMUL.receipt(matmul_request(x, b)).backend == "decode"


def test_conditions_of_the_vendors_say_what_they_need(monkeypatch):
    """On a pretended Blackwell: sizes, groups and missing packages, in this order."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    request = {"device": torch.device("cuda"), "dtype": torch.bfloat16, "outputs": 64}
    why = MATMUL.explain(MatmulRequest(**request, inner=48))
    assert why["cublas"].startswith("it needs columns divisible by 32")
    why = MATMUL.explain(MatmulRequest(**request, inner=64, groups=True))
    assert "one amax each" in why["cublas"]
    why = MATMUL.explain(MatmulRequest(**request, inner=64), strict=True)
    assert why["cublas"] == "usable"
    assert "transformer-engine with its torch binding" in why["transformer_engine"]
    why = WEIGHT_MATMUL.explain(MatmulRequest(**request, inner=64, needs_grad=True))
    assert why["humming"] == "it has no backward, and a gradient is needed"


def test_hopper_never_claims_four_bit_hardware(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    request = MatmulRequest(
        device=torch.device("cuda"), dtype=torch.bfloat16, inner=3072, outputs=3072
    )
    receipt = MATMUL.receipt(request)
    assert receipt.backend == "emulated"
    assert receipt.reasons["cublas"] == "it needs compute capability 10.0, this GPU has 9.0"
    with pytest.raises(BackendUnavailable, match="strict=True"):
        MATMUL.receipt(request, strict=True)


COMPILED = """
import sys
import torch
from longlive_core.nvfp4 import *

assert "torch._dynamo" not in sys.modules, "importing nvfp4 imports the compiler"
assert "triton" not in sys.modules, "importing nvfp4 imports triton"

config = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
weight = quantize(torch.randn(24, 40), QuantizeConfig(block=(16, 16)))

def everything(x, bias, amax, out):
    rows, cols = quantize_both(x, config, rotate=True)
    given = quantize(x, QuantizeConfig(block=(16, 16)), amax=amax)
    dequantize(rows, out=out)
    products = matmul(rows, weight, bias=bias), matmul(x, weight, bias=bias)
    random = quantize(x, QuantizeConfig(rounding="stochastic")).codes
    return *products, fake_quantize(x, config), cols.dequantize(), given.transpose(), out, random

x, bias = torch.randn(20, 40, requires_grad=True), torch.randn(24, requires_grad=True)
compiled = torch.compile(everything, fullgraph=True, backend="aot_eager")
got, want = (f(x, bias, torch.tensor(5.0), torch.empty(20, 40)) for f in (compiled, everything))
for a, b in zip(got[:-1], want[:-1]):
    a, b = (t.dequantize() if isinstance(t, NVFP4Tensor) else t for t in (a, b))
    assert torch.equal(a, b)
assert not torch.equal(got[-1], want[-1]), "a compiled graph draws a seed of its own"
losses = (sum(output.float().sum() for output in outputs[:3]) for outputs in (got, want))
for a, b in zip(*(torch.autograd.grad(loss, (x, bias)) for loss in losses)):
    assert torch.equal(a, b)
"""


def test_everything_compiles_without_a_graph_break():
    """In a process of its own: the shape checks of this one are Python that nothing compiles."""
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_library_operations_are_what_they_claim():
    a, b = quantize(torch.randn(4, 32)), quantize(torch.randn(16, 32))
    config = "amax_6 448 1x16 nearest"
    left, right = ((q.codes, q.block_scales, q.amax, config) for q in (a, b))
    checks = "test_autograd_registration", "test_faketensor"  # the others multiply float8
    ops = torch.ops.longlive
    for op, arguments in (
        (ops.nvfp4_matmul, (*left, *right, None, torch.bfloat16, "auto", False)),
        (ops.nvfp4_weight_matmul, (torch.randn(4, 32), *right, None, False, "auto", False)),
    ):
        torch.library.opcheck(op, arguments, test_utils=checks)


def test_a_rule_is_part_of_the_operand():
    """The same bits under another rule mean another number."""
    x = make("normal", 16, 64)
    a, b = quantize(x, QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)), quantize(x)
    close(matmul(a, b, dtype=torch.float32), exact(a, b), 1e-6)
    assert a.config.full_scale != b.config.full_scale


def test_a_bias_or_a_type_that_does_not_fit_is_refused():
    x, weight = torch.randn(2, 32), quantize(torch.randn(4, 32))
    with pytest.raises(ValueError, match=r"bias of 4 numbers, one an output, got shape \(3,\)"):
        matmul(x, weight, bias=torch.zeros(3))
    with pytest.raises(ValueError, match="of the type of a, torch.bfloat16, got torch.float32"):
        matmul(x.bfloat16(), weight, bias=torch.zeros(4))
    with pytest.raises(ValueError, match="dtype is a float type, got torch.int32"):
        matmul(quantize(x), weight, dtype=torch.int32)


@pytest.mark.parametrize("inner", [0, 32])
def test_no_rows_and_sums_of_nothing(inner):
    weight, bias = quantize(torch.zeros(4, inner)), torch.arange(4.0)
    for rows in (0, 3):
        if rows and inner:
            continue
        for left in (torch.zeros(rows, inner), quantize(torch.zeros(rows, inner))):
            got = matmul(left, weight, bias=bias, dtype=torch.float32)
            assert torch.equal(got, bias.expand(rows, 4))


def test_memory_of_another_shape_is_refused():
    q = quantize(torch.randn(4, 32))
    for out in (torch.empty(2, 2), torch.empty(32, 4).t()):
        with pytest.raises(ValueError, match=r"writes values of shape \(4, 32\) into contiguous"):
            dequantize(q, out=out)
    with pytest.raises(ValueError, match="values are no whole numbers"):
        dequantize(q, torch.int32)
