"""GELU and rows in E4M3, in one launch; ``fused.gelu_ops`` has the meaning."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.encode_byte_rows import converts
from longlive_core.fused.kernels.launch import tile
from longlive_core.fused.kernels.row_math import encoded, rounded

VALUES_PER_THREAD = 128


@triton.jit
def _gelu(x, FAST: tl.constexpr):
    """x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x ** 3)), rounded to bfloat16, in float32.

    FAST: by two approximate instructions for each number, and rounded in pairs, for the unit that
    approximates is narrow, and converts what is rounded alone.
    """
    if FAST:
        # -2 * sqrt(2 / pi) * log2(e), and that times 0.044715
        power = x * tl.fma(x * x, -0.10294324, -2.3022082)
        grown = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [power], tl.float32, is_pure=True, pack=1
        )
        part = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + grown], tl.float32, is_pure=True, pack=1
        )
        y = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;",
            "=r,f,f",
            [x * part],
            tl.bfloat16,
            is_pure=True,
            pack=2,
        )
        return y.to(tl.float32)
    inner = 1.5957691216057308 * (x + 0.044715 * (x * x * x))  # twice the argument of tanh
    return rounded(x / (1.0 + tl.exp(-inner)), False).to(tl.float32)


@triton.jit
def _gelu_rows(
    x_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    LARGEST: tl.constexpr,
    CONVERTS: tl.constexpr,
    FAST: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)[None, :]
    inside = row < rows
    at = row.to(tl.int64)[:, None] * D + col
    mask = inside[:, None] & (col < D)
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.where(col < D, _gelu(x, FAST), 0.0)  # so that padding of whole reads is left out
    code, scale = encoded(y, LARGEST, CONVERTS, False)
    tl.store(codes_ptr + at, code, mask=mask)
    tl.store(scales_ptr + row, scale, mask=inside)


def gelu_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of the rows of GELU."""
    x = x.contiguous()
    dim = x.shape[-1]
    rows = x.numel() // dim
    codes = torch.empty_like(x, dtype=torch.uint8)
    scales = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
    width, per_program, warps = tile(dim, encodes=True, most=VALUES_PER_THREAD)
    _gelu_rows[(triton.cdiv(rows, per_program),)](
        x,
        codes,
        scales,
        rows,
        LARGEST=LARGEST[torch.float8_e4m3fn],
        CONVERTS=converts(x),
        FAST=converts(x),
        D=dim,
        WIDTH=width,
        ROWS=per_program,
        num_warps=warps,
        enable_fp_fusion=False,
    )
    return codes.view(torch.float8_e4m3fn), scales
