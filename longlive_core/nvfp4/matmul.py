"""Products with NVFP4 operands, a b^T, and the backends behind them.

Two operations, by what the left operand is:

- ``MATMUL``, four bits on both sides (W4A4): tensor cores of Blackwell compute it; elsewhere it is
  emulated. Values times block scales are exact in bfloat16, so a wider GEMM that adds in float32
  sums the same products; only the order of additions differs.
- ``WEIGHT_MATMUL``, four bits in the weight alone (W4A16): a format for storage. Not an emulation:
  the weight is decoded, and the product is one of the left operand's type.

Weights lie as [out, in], quantized along ``in``: ``matmul(a, b)`` is a b^T.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Operation, Receipt
from longlive_core.nvfp4.matmul_backends import MATMUL as MATMUL
from longlive_core.nvfp4.matmul_backends import WEIGHT_MATMUL as WEIGHT_MATMUL
from longlive_core.nvfp4.matmul_backends import MatmulRequest as MatmulRequest
from longlive_core.nvfp4.matmul_backends import Multiply
from longlive_core.nvfp4.quantize import dequantize
from longlive_core.nvfp4.quantize_ops import config_fields, config_from
from longlive_core.nvfp4.tensor import NVFP4Tensor

Activations = Float[Tensor, "*batch inner"]
Bias = Float[Tensor, " outputs"]


def matmul_request(
    a: Activations | NVFP4Tensor, b: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16
) -> MatmulRequest:
    """The request that these operands make of ``MATMUL`` or of ``WEIGHT_MATMUL``.

    ``dtype`` is the result's where both are quantized. Raises ``ValueError`` if they do not fit.
    """
    if len(b.shape) != 2 or len(a.shape) == 0 or a.shape[-1] != b.shape[1]:
        raise ValueError(
            f"nvfp4.matmul computes a b^T for b of shape [out, in], quantized along in; got a of "
            f"shape {tuple(a.shape)} and b of shape {b.shape}: the last dimensions must be equal. "
            f"Transpose before quantizing, or use quantize_both."
        )
    needs_grad, groups = False, b.amax.numel() > 1
    if isinstance(a, NVFP4Tensor):
        groups = groups or a.amax.numel() > 1
    else:
        dtype = a.dtype
        needs_grad = torch.is_grad_enabled() and a.requires_grad
    return MatmulRequest(
        device=b.device,
        dtype=dtype,
        needs_grad=needs_grad,
        inner=2 * b.codes.shape[1],
        outputs=b.codes.shape[0],
        groups=groups,
    )


def matmul(
    a: Activations | NVFP4Tensor,
    b: NVFP4Tensor,
    *,
    bias: Bias | None = None,
    dtype: torch.dtype = torch.bfloat16,
    backend: str = "auto",
    strict: bool = False,
) -> Float[Tensor, "*batch outputs"]:
    """a b^T + bias for a weight ``b`` [out, in]; ``a`` is quantized too (W4A4) or is not (W4A16).

    ``dtype`` is the result's for W4A4; W4A16 gives the type of ``a``, and a gradient to ``a`` (that
    of the product with the decoded weight) and ``bias``. ``backend`` names a row of ``MATMUL`` or
    ``WEIGHT_MATMUL``; ``strict`` refuses emulation. Raises ``BackendUnavailable``.
    """
    request = matmul_request(a, b, dtype)
    if not request.dtype.is_floating_point:
        raise ValueError(
            f"nvfp4.matmul computes in float types, got {request.dtype}. Convert the operand, or "
            f"choose another dtype=."
        )
    if bias is not None and bias.shape != b.shape[:1]:
        raise ValueError(
            f"nvfp4.matmul adds a bias of {b.shape[0]} numbers, one an output, got shape "
            f"{tuple(bias.shape)}."
        )
    if bias is not None and isinstance(a, Tensor) and bias.dtype != a.dtype:
        raise ValueError(
            f"nvfp4.matmul adds a bias of the type of a, {a.dtype}, got {bias.dtype}: convert it."
        )
    if isinstance(a, NVFP4Tensor):
        out = torch.ops.longlive.nvfp4_matmul(
            a.codes,
            a.block_scales,
            a.amax,
            *config_fields(a.config),
            b.codes,
            b.block_scales,
            b.amax,
            *config_fields(b.config),
            _padded_bias(bias, b),
            dtype,
            backend,
            strict,
        )
        return out[: math.prod(a.shape[:-1]), : b.shape[0]].reshape(*a.shape[:-1], b.shape[0])
    x = F.pad(a, (0, request.inner - a.shape[-1])) if request.inner != a.shape[-1] else a
    out = torch.ops.longlive.nvfp4_weight_matmul(
        x.reshape(math.prod(a.shape[:-1]), request.inner),
        b.codes,
        b.block_scales,
        b.amax,
        *config_fields(b.config),
        _padded_bias(bias, b),
        request.needs_grad,
        backend,
        strict,
    )
    return out[:, : b.shape[0]].reshape(*a.shape[:-1], b.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightProduct:
    """A weight made ready for many products: ``multiply(x, bias)`` on rows ``x``, no gradient."""

    receipt: Receipt
    multiply: Multiply


def prepare_weight(
    b: NVFP4Tensor, *, dtype: torch.dtype = torch.bfloat16, backend: str = "auto"
) -> WeightProduct:
    """Make ``b`` [out, in] ready for W4A16 products with activations of ``dtype``.

    For backends that repack the weight (humming), which ``matmul`` would do at every call.
    ``multiply`` takes rows as long as the padded ``in`` and gives the padded ``out``.
    """
    request = MatmulRequest(
        device=b.device,
        dtype=dtype,
        inner=2 * b.codes.shape[1],
        outputs=b.codes.shape[0],
        groups=b.amax.numel() > 1,
    )
    receipt = WEIGHT_MATMUL.receipt(request, backend)
    multiply = WEIGHT_MATMUL.named(receipt.backend).run(b)
    return WeightProduct(receipt=receipt, multiply=multiply)


def _padded_bias(bias: Tensor | None, b: NVFP4Tensor) -> Tensor | None:
    missing = b.codes.shape[0] - b.shape[0]
    return F.pad(bias, (0, missing)) if bias is not None and missing else bias


def _operand(
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    fields: tuple[str, int, int, str],
) -> NVFP4Tensor:
    """An operation's arguments as the padded matrix that they are."""
    rows, half_cols = codes.shape
    return NVFP4Tensor(
        codes=codes,
        block_scales=scales,
        amax=amax,
        config=config_from(*fields),
        shape=(rows, 2 * half_cols),
    )


@functools.cache
def _implementation(
    operation: Operation, request: MatmulRequest, backend: str, strict: bool
) -> Callable:
    """Asked once for each size: a device does not change its mind."""
    return operation.select(request, backend, strict=strict)


@torch.library.custom_op("longlive::nvfp4_matmul", mutates_args=())
def _matmul(
    a_codes: Tensor,
    a_scales: Tensor,
    a_amax: Tensor,
    a_rule: str,
    a_bound: int,
    a_block_rows: int,
    a_rounding: str,
    b_codes: Tensor,
    b_scales: Tensor,
    b_amax: Tensor,
    b_rule: str,
    b_bound: int,
    b_block_rows: int,
    b_rounding: str,
    bias: Tensor | None,
    dtype: torch.dtype,
    backend: str,
    strict: bool,
) -> Tensor:
    """a b^T + bias of two quantized matrices."""
    a = _operand(a_codes, a_scales, a_amax, (a_rule, a_bound, a_block_rows, a_rounding))
    b = _operand(b_codes, b_scales, b_amax, (b_rule, b_bound, b_block_rows, b_rounding))
    run = _implementation(MATMUL, matmul_request(a, b, dtype), backend, strict)
    if a_codes.numel() == 0:  # no rows, or sums of nothing
        out = torch.zeros(a_codes.shape[0], b_codes.shape[0], dtype=dtype, device=a_codes.device)
        return out if bias is None else (out + bias).to(dtype)
    return run(a, b, bias, dtype)


@_matmul.register_fake
def _(a_codes, a_scales, a_amax, a_rule, a_bound, a_block_rows, a_rounding, b_codes, *rest):  # type: ignore[no-untyped-def]
    dtype = rest[-3]
    return torch.empty(a_codes.shape[0], b_codes.shape[0], dtype=dtype, device=a_codes.device)


def _matmul_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    """Codes have no gradient; the bias has."""
    to_bias = gradient.sum(0) if ctx.needs_input_grad[14] else None
    return *[None] * 14, to_bias, *[None] * 3


_matmul.register_autograd(_matmul_backward)


@torch.library.custom_op("longlive::nvfp4_weight_matmul", mutates_args=())
def _weight_matmul(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    bias: Tensor | None,
    needs_grad: bool,
    backend: str,
    strict: bool,
) -> Tensor:
    """x b^T + bias of a plain and a quantized matrix."""
    b = _operand(codes, scales, amax, (rule, bound, block_rows, rounding))
    request = replace(matmul_request(x, b), needs_grad=needs_grad)
    return _implementation(WEIGHT_MATMUL, request, backend, strict)(b)(x, bias)


@_weight_matmul.register_fake
def _(x, codes, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], codes.shape[0])


def _keep_weight(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, codes, scales, amax, *fields = inputs
    ctx.save_for_backward(codes, scales, amax)
    ctx.fields = tuple(fields[:4])


def _weight_matmul_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    codes, scales, amax = ctx.saved_tensors
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        weight = dequantize(_operand(codes, scales, amax, ctx.fields), gradient.dtype)
        to_x = gradient @ weight
    if ctx.needs_input_grad[8]:
        to_bias = gradient.sum(0)
    return to_x, *[None] * 7, to_bias, *[None] * 3


_weight_matmul.register_autograd(_weight_matmul_backward, setup_context=_keep_weight)
