"""FP8 products: the hardware's call and the emulation mean the same; wrong operands are refused."""

from unittest.mock import Mock

import pytest
import torch

from longlive_core.backends import BackendUnavailable
from longlive_core.float8 import Scaling, dequantize, matmul, matmul_backends, quantize
from longlive_core.float8.matmul_backends import BLOCK_MATMUL, ROW_MATMUL

PAIRS = [(Scaling.ROW, Scaling.ROW), (Scaling.ROW_BLOCK, Scaling.SQUARE)]


@pytest.mark.parametrize(("left", "right"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_decoded_matrices(left, right, dtype):
    a, b = quantize(torch.randn(5, 256), left), quantize(torch.randn(384, 256), right)
    bias = torch.randn(384).to(dtype)
    got = matmul(a, b, bias=bias, out_dtype=dtype)
    want = dequantize(a, torch.float64) @ dequantize(b, torch.float64).t() + bias.double()
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_the_call_of_the_hardware_agrees_where_it_runs_on_a_cpu():
    a, b = quantize(torch.randn(33, 64)), quantize(torch.randn(48, 64))
    try:
        got = ROW_MATMUL.named("scaled_mm").run(a, b, None, torch.float32)
    except NotImplementedError:
        pytest.skip(f"torch {torch.__version__} has no scaled_mm for a CPU; 2.13 does")
    torch.testing.assert_close(got, matmul(a, b, out_dtype=torch.float32))


@pytest.mark.parametrize(("rows", "fast"), [(1, False), (32, False), (33, True)])
def test_sums_of_few_rows_are_not_asked_to_be_fast(rows, fast, monkeypatch):
    asked = Mock(side_effect=lambda a, b, **how: torch.zeros(len(a), b.shape[1]))
    monkeypatch.setattr(matmul_backends, "scaled_mm", asked)
    a, b = quantize(torch.randn(rows, 64)), quantize(torch.randn(48, 64))
    for name, wanted in (("scaled_mm", False), ("scaled_mm_fast", fast)):
        ROW_MATMUL.named(name).run(a, b, None, torch.bfloat16)
        assert asked.call_args.kwargs["use_fast_accum"] is wanted


def test_blocks_are_laid_out_as_cublaslt_reads_them(monkeypatch):
    """Rows in fours, scales of a column by column, rows of b's scales in fours: all zeros more."""
    asked = Mock(side_effect=lambda a, b, **how: a.float() @ b.float())
    monkeypatch.setattr(matmul_backends, "scaled_mm", asked)
    a = quantize(torch.randn(5, 640), Scaling.ROW_BLOCK)
    b = quantize(torch.randn(384, 640), Scaling.SQUARE)
    out = BLOCK_MATMUL.named("scaled_mm").run(a, b, None, torch.float32)
    (codes, other), how = asked.call_args.args, asked.call_args.kwargs
    assert torch.equal(out, a.codes.float() @ b.codes.float().t())
    assert codes.shape == (8, 640) and not codes[5:].float().any()
    assert torch.equal(other.float(), b.codes.float().t())
    assert how["scale_a"].shape == (8, 5) and how["scale_a"].stride() == (1, 8)
    assert torch.equal(how["scale_a"][:5], a.scales) and not how["scale_a"][5:].any()
    assert how["scale_b"].shape == (8, 3) and how["scale_b"].stride() == (1, 8)
    assert torch.equal(how["scale_b"][:5], b.scales.t()) and not how["scale_b"][5:].any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("left", "right"), PAIRS)
@pytest.mark.parametrize("rows", [5, 128])
def test_every_backend_of_the_gpu_agrees(left, right, rows):
    a = quantize(torch.randn(rows, 512, device="cuda"), left)
    b = quantize(torch.randn(768, 512, device="cuda"), right)
    bias = torch.randn(768, device="cuda", dtype=torch.bfloat16) * 9
    want = matmul(a, b, bias=bias, backend="reference").float()
    try:
        got = matmul(a, b, bias=bias, backend="scaled_mm").float()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    assert (got - want).norm() <= 2e-3 * want.norm()


def test_what_does_not_run_here_says_why():
    a, b = quantize(torch.randn(2, 16)), quantize(torch.randn(16, 16))
    with pytest.raises(BackendUnavailable, match="needs a CUDA device, not cpu"):
        matmul(a, b, backend="scaled_mm")
    with pytest.raises(BackendUnavailable, match="strict=True refuses emulation"):
        matmul(a, b, strict=True)
    assert BLOCK_MATMUL.backends[-1].emulates


@pytest.mark.parametrize(
    "bias", [torch.zeros(16), torch.zeros(15, dtype=torch.bfloat16)], ids=["type", "size"]
)
def test_a_bias_that_does_not_fit_is_refused(bias):
    a, b = quantize(torch.randn(2, 16)), quantize(torch.randn(16, 16))
    with pytest.raises(ValueError, match=r"a bias of 16 numbers .*bfloat16, got \(1[56],\) in"):
        matmul(a, b, bias=bias)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((2, 16, Scaling.ROW), (16, 32, Scaling.ROW), r"got \(2, 16\) by \(16, 32\)"),
        ((2, 24, Scaling.ROW), (16, 24, Scaling.ROW), "divisible by 16"),
        ((2, 16, Scaling.ROW), (24, 16, Scaling.ROW), "divisible by 16"),
        ((2, 192, Scaling.ROW_BLOCK), (128, 192, Scaling.SQUARE), "divisible by 128"),
        ((2, 16, Scaling.ROW), (16, 16, Scaling.SQUARE), "scaled by row and 128x128"),
    ],
)
def test_operands_that_do_not_fit_are_refused(left, right, message):
    a, b = (quantize(torch.ones(*size), scaling) for *size, scaling in (left, right))
    with pytest.raises(ValueError, match=message):
        matmul(a, b)
