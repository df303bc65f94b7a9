"""Encode rows in a byte a number, in one launch; ``rowwise.py`` has the meaning.

A wide row is read twice, the second time from the GPU's caches.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.e4m3 import NAN_BYTE, e4m3_byte

VALUES_PER_PROGRAM = 4096
WIDEST, NARROWEST = 4096, 64
"""Numbers of a row that a program holds at one time."""
TINY = tl.constexpr(1.1754943508222875e-38)  # float32's smallest normal number


@triton.jit
def size_of(x):
    """Magnitudes as integers keep their order, and NaN is the largest."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def e4m3_code(y, CONVERTS: tl.constexpr):
    if CONVERTS:
        return y.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    sign = (y.to(tl.int32, bitcast=True) >> 24) & 0x80
    return tl.where(y == y, e4m3_byte(tl.abs(y)) | sign, NAN_BYTE).to(tl.uint8)


@triton.jit
def divided(x, scale, SHORT: tl.constexpr):
    """x / scale, each row of x by its own, rounded as IEEE 754 does.

    SHORT: the GPU has a fused multiply-add, and numbers are of bfloat16. A product with the rounded
    reciprocal, put right by what it leaves over, then gives the same E4M3 codes in three
    instructions: it can differ from the quotient only where that is within 2**-46 of the middle
    between two neighbors in float32, and no bfloat16 over the scale of such a row is, next to the
    middle between two codes.
    """
    over = tl.broadcast_to(scale[:, None], x.shape)
    if SHORT:
        inverse = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)[:, None]
        inverse = tl.broadcast_to(inverse, x.shape)
        near = x * inverse
        # what is over with its sign turned: so that a negative zero stays one
        return tl.fma(tl.fma(near, over, -x), -inverse, near)
    return tl.div_rn(x, over)


@triton.jit
def _int8_code(y, LARGEST: tl.constexpr):
    y = tl.where(y == y, tl.minimum(tl.maximum(y, -LARGEST), LARGEST), 0.0)
    # float32's step is 1 at 1.5 * 2**23: adding it rounds to an integer, in the lowest bits
    return (y + 12582912.0).to(tl.int32, bitcast=True).to(tl.uint8)


@triton.jit
def _encode(
    x_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    LARGEST: tl.constexpr,
    E4M3: tl.constexpr,
    CONVERTS: tl.constexpr,
    SHORT: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of D numbers, WIDTH at a time: once for their largest, once for their codes.

    ``CONVERTS``: the GPU has an instruction that rounds to E4M3.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    start = row.to(tl.int64)[:, None] * D
    size = tl.zeros((ROWS, WIDTH), tl.int32)
    for first in tl.static_range(0, D, WIDTH):
        col = first + tl.arange(0, WIDTH)[None, :]
        x = tl.load(x_ptr + start + col, mask=inside[:, None] & (col < D), other=0.0)
        size = tl.maximum(size, size_of(x.to(tl.float32)))
    amax = tl.max(size, axis=1).to(tl.float32, bitcast=True)
    if E4M3:
        scale = tl.div_rn(amax, tl.full(amax.shape, LARGEST, tl.float32))
    else:
        scale = amax * (1.0 / LARGEST)
    scale = tl.where(scale < TINY, TINY, scale)
    tl.store(scales_ptr + row, scale, mask=inside)
    for first in tl.static_range(0, D, WIDTH):
        col = first + tl.arange(0, WIDTH)[None, :]
        mask = inside[:, None] & (col < D)
        x = tl.load(x_ptr + start + col, mask=mask, other=0.0).to(tl.float32)
        y = divided(x, scale, SHORT)
        code = e4m3_code(y, CONVERTS) if E4M3 else _int8_code(y, LARGEST)
        tl.store(codes_ptr + start + col, code, mask=mask)


def encode_rows(rows: Tensor, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes and scales of a contiguous matrix."""
    count, cols = rows.shape
    codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=rows.device)
    if count == 0:
        return codes.view(code_dtype), scales
    width = width_of(cols)
    per_program = max(1, VALUES_PER_PROGRAM // width)
    _encode[(triton.cdiv(count, per_program),)](
        rows,
        codes,
        scales,
        count,
        LARGEST=LARGEST[code_dtype],
        E4M3=code_dtype == torch.float8_e4m3fn,
        CONVERTS=converts(rows),
        SHORT=converts(rows) and rows.dtype == torch.bfloat16 and code_dtype != torch.int8,
        D=cols,
        WIDTH=width,
        ROWS=per_program,
        enable_fp_fusion=False,
    )
    return codes.view(code_dtype), scales


def converts(x: Tensor) -> bool:
    """Whether the device of ``x`` has an instruction that rounds to E4M3."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9)


def width_of(cols: int) -> int:
    """A power of two that divides rows of ``cols`` numbers, so that no thread is idle; or covers
    them, if there is none worth it."""
    divisor = min(cols & -cols, WIDEST)
    return divisor if divisor >= NARROWEST else min(triton.next_power_of_2(cols), WIDEST)
