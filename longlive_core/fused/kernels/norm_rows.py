"""Residual, layer norm and modulation in one launch; ``fused.norm_ops`` has the meaning."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit import EncodedRows
from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.encode_byte_rows import converts
from longlive_core.fused.kernels.launch import tile
from longlive_core.fused.kernels.row_math import encoded, layer_statistics, rounded

PLAIN, MODULATED, AFFINE = (tl.constexpr(kind) for kind in range(3))


@triton.jit
def _add_norm(
    x_ptr,
    y_ptr,
    gate_ptr,
    first_ptr,
    second_ptr,
    sum_ptr,
    out_ptr,
    scales_ptr,
    rows,
    tokens,
    gate_stride,
    step_stride,
    ADDS: tl.constexpr,
    GATED: tl.constexpr,
    AFTER: tl.constexpr,
    ENCODES: tl.constexpr,
    EPS: tl.constexpr,
    LARGEST: tl.constexpr,
    CONVERTS: tl.constexpr,
    NATIVE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of D numbers; ``tokens`` of them, one after another, share a step."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)[None, :]
    step = (row // tokens).to(tl.int64)[:, None]
    at = row.to(tl.int64)[:, None] * D + col
    inside = row < rows
    mask = inside[:, None] & (col < D)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if ADDS:
        y = tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            y *= tl.load(gate_ptr + step * gate_stride + col, mask=mask, other=0.0).to(tl.float32)
        total = rounded(x + y, NATIVE)
        tl.store(sum_ptr + at, total, mask=mask)
        x = total.to(tl.float32)
    if AFTER != PLAIN:
        mean, rstd = layer_statistics(x, D, EPS)
        n = (x - mean[:, None]) * rstd[:, None]
        if AFTER == MODULATED:
            place = step * step_stride + col
            shift = tl.load(first_ptr + place, mask=mask, other=0.0).to(tl.float32)
            scale = tl.load(second_ptr + place, mask=mask, other=0.0).to(tl.float32)
            factor = rounded(1.0 + scale, NATIVE).to(tl.float32)
            n = shift + rounded(n, NATIVE).to(tl.float32) * factor
        else:
            weight = tl.load(first_ptr + col, mask=col < D, other=0.0).to(tl.float32)
            bias = tl.load(second_ptr + col, mask=col < D, other=0.0).to(tl.float32)
            n = n * weight + bias
        out = rounded(n, NATIVE)
        if ENCODES:
            wide = tl.where(col < D, out.to(tl.float32), 0.0)
            code, scales = encoded(wide, LARGEST, CONVERTS, True)
            tl.store(out_ptr + at, code, mask=mask)
            tl.store(scales_ptr + row, scales, mask=inside)
        else:
            tl.store(out_ptr + at, out, mask=mask)


def add_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    after: tuple[Tensor, Tensor] | None,
    *,
    modulated: bool,
    eps: float,
    encode: bool,
) -> tuple[Tensor, Tensor | EncodedRows]:
    """The sum and its norm; tensors as ``fused.norm_ops`` has them."""
    batch, steps, tokens, dim = x.shape
    rows = x.numel() // dim
    x = x.contiguous()
    y = None if y is None else y.contiguous()
    first, second, step_stride = x, x, 0
    if after is not None:
        first, second = after
        if modulated:
            first, second = (one.expand(batch, steps, dim) for one in (first, second))
            (first, step_stride), (second, other) = _paced(first), _paced(second)
            if step_stride != other:
                first, second, step_stride = first.contiguous(), second.contiguous(), dim
        else:
            first, second = first.contiguous(), second.contiguous()
    gated = gate is not None
    gate, gate_stride = (x, 0) if gate is None else _paced(gate.expand(batch, steps, dim))
    total = x if y is None else torch.empty_like(x)
    out = torch.empty_like(x, dtype=torch.uint8 if encode else x.dtype) if after else x
    scales = torch.empty(
        (*x.shape[:-1], 1) if encode else (1,), dtype=torch.float32, device=x.device
    )
    width, per_program, warps = tile(dim, encodes=encode)
    _add_norm[(triton.cdiv(rows, per_program),)](
        x,
        x if y is None else y,
        gate,
        first,
        second,
        total,
        out,
        scales,
        rows,
        tokens,
        gate_stride,
        step_stride,
        ADDS=y is not None,
        GATED=gated,
        AFTER=(PLAIN if after is None else MODULATED if modulated else AFFINE).value,
        ENCODES=encode,
        EPS=eps,
        LARGEST=LARGEST[torch.float8_e4m3fn],
        CONVERTS=converts(x),
        NATIVE=x.is_cuda,
        D=dim,
        WIDTH=width,
        ROWS=per_program,
        num_warps=warps,
        enable_fp_fusion=False,
    )
    if after is None:
        return total, total
    return total, EncodedRows(out.view(torch.float8_e4m3fn), scales) if encode else out


def _paced(x: Tensor) -> tuple[Tensor, int]:
    """The vectors of all steps, and how far each lies from the next, also where a sample ends."""
    batch, steps, dim = x.shape
    if x.stride(2) != 1 or (batch > 1 and x.stride(0) != steps * x.stride(1)):
        x = x.contiguous()
    return x, x.stride(1) if steps > 1 else x.stride(0)
