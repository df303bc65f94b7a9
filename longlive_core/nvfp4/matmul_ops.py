"""The library operations of products with NVFP4 operands; ``matmul_backends.py`` has what they run.

They take a matrix as its codes, block scales, amax and config, the last as one text
(``format.config_text``), padded to whole blocks; ``matmul.py`` has the functions that people call.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Operation
from longlive_core.checks import instance
from longlive_core.nvfp4.format import config_from_text
from longlive_core.nvfp4.matmul_backends import MATMUL, WEIGHT_MATMUL, MatmulRequest
from longlive_core.nvfp4.quantize import dequantize
from longlive_core.nvfp4.tensor import NVFP4Tensor
from longlive_core.tensor_checks import dense, together


def matmul_request(
    a: Float[Tensor, "*batch inner"] | NVFP4Tensor,
    b: NVFP4Tensor,
    dtype: torch.dtype = torch.bfloat16,
) -> MatmulRequest:
    """The request that these operands make of ``MATMUL`` or of ``WEIGHT_MATMUL``.

    ``dtype`` is the result's where both are quantized. Raises ``ValueError`` if they do not fit.
    """
    instance("nvfp4.matmul's b", b, NVFP4Tensor, why="the weight is packed. Pass quantize(weight).")
    if not isinstance(a, NVFP4Tensor):
        dense("nvfp4.matmul's a", a, why="it is what the weight multiplies, packed or not.")
    if len(b.shape) != 2 or len(a.shape) == 0 or a.shape[-1] != b.shape[1]:
        raise ValueError(
            f"nvfp4.matmul computes a b^T for b of shape [out, in], quantized along in; got a of "
            f"shape {tuple(a.shape)} and b of shape {b.shape}: the last dimensions must be equal. "
            f"Transpose before quantizing, or use quantize_both."
        )
    together("nvfp4.matmul's a and b", a.codes if isinstance(a, NVFP4Tensor) else a, b.codes)
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


def _operand(
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: str,
) -> NVFP4Tensor:
    """An operation's arguments as the padded matrix that they are."""
    rows, half_cols = codes.shape
    return NVFP4Tensor(
        codes=codes,
        block_scales=scales,
        amax=amax,
        config=config_from_text(config),
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
    a_config: str,
    b_codes: Tensor,
    b_scales: Tensor,
    b_amax: Tensor,
    b_config: str,
    bias: Tensor | None,
    dtype: torch.dtype,
    backend: str,
    strict: bool,
) -> Tensor:
    """a b^T + bias of two quantized matrices."""
    a = _operand(a_codes, a_scales, a_amax, a_config)
    b = _operand(b_codes, b_scales, b_amax, b_config)
    run = _implementation(MATMUL, matmul_request(a, b, dtype), backend, strict)
    if a_codes.numel() == 0:  # no rows, or sums of nothing
        out = torch.zeros(a_codes.shape[0], b_codes.shape[0], dtype=dtype, device=a_codes.device)
        return out if bias is None else (out + bias).to(dtype)
    return run(a, b, bias, dtype)


@_matmul.register_fake
def _(a_codes, a_scales, a_amax, a_config, b_codes, *rest):  # type: ignore[no-untyped-def]
    dtype = rest[-3]
    return torch.empty(a_codes.shape[0], b_codes.shape[0], dtype=dtype, device=a_codes.device)


def _matmul_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    """Codes have no gradient; the bias has."""
    to_bias = gradient.sum(0) if ctx.needs_input_grad[8] else None
    return *[None] * 8, to_bias, *[None] * 3


_matmul.register_autograd(_matmul_backward)


@torch.library.custom_op("longlive::nvfp4_weight_matmul", mutates_args=())
def _weight_matmul(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: str,
    bias: Tensor | None,
    needs_grad: bool,
    backend: str,
    strict: bool,
) -> Tensor:
    """x b^T + bias of a plain and a quantized matrix."""
    b = _operand(codes, scales, amax, config)
    request = replace(matmul_request(x, b), needs_grad=needs_grad)
    return _implementation(WEIGHT_MATMUL, request, backend, strict)(b)(x, bias)


@_weight_matmul.register_fake
def _(x, codes, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0], codes.shape[0])


def _keep_weight(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, codes, scales, amax, config, *_ = inputs
    ctx.save_for_backward(codes, scales, amax)
    ctx.config = config


def _weight_matmul_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    codes, scales, amax = ctx.saved_tensors
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        weight = dequantize(_operand(codes, scales, amax, ctx.config), gradient.dtype)
        to_x = gradient @ weight
    if ctx.needs_input_grad[5]:
        to_bias = gradient.sum(0)
    return to_x, *[None] * 4, to_bias, *[None] * 3


_weight_matmul.register_autograd(_weight_matmul_backward, setup_context=_keep_weight)
