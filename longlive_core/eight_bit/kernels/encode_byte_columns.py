"""Encode columns in a byte a number and lay them out as rows; ``columnwise.py`` has the meaning."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.encode_byte_rows import TINY, converts, e4m3_code

ROWS, COLS = 128, 64
"""The part of a matrix that a program turns over."""


@triton.jit
def _encode(
    x_ptr,
    amax_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    padded,
    cols,
    LARGEST: tl.constexpr,
    CONVERTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """ROWS rows of COLS columns; a row of codes has ``padded`` of them, zeros after the last."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = col < cols
    amax = tl.load(amax_ptr + col, mask=inside, other=0.0)
    scale = tl.div_rn(amax, tl.full(amax.shape, LARGEST, tl.float32))
    scale = tl.where(scale < TINY, TINY, scale)
    if tl.program_id(0) == 0:
        tl.store(scales_ptr + col, scale, mask=inside)
    at = row.to(tl.int64)[:, None] * cols + col[None, :]
    x = tl.load(x_ptr + at, mask=(row < rows)[:, None] & inside[None, :], other=0.0)
    x = x.to(tl.float32)
    y = tl.div_rn(x, tl.broadcast_to(scale[None, :], x.shape))
    y = tl.where(y == y, tl.minimum(tl.maximum(y, -LARGEST), LARGEST), y)
    code = tl.trans(e4m3_code(y, CONVERTS))
    to = col.to(tl.int64)[:, None] * padded + row[None, :]
    tl.store(codes_ptr + to, code, mask=inside[:, None] & (row < padded)[None, :])


def encode_columns(x: Tensor, amax: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """Codes [cols, padded] and scales [cols, 1] of a contiguous matrix."""
    rows, cols = x.shape
    codes = torch.empty(cols, padded, dtype=torch.uint8, device=x.device)
    scales = torch.empty(cols, 1, dtype=torch.float32, device=x.device)
    grid = (max(1, triton.cdiv(padded, ROWS)), triton.cdiv(cols, COLS))
    _encode[grid](
        x,
        amax,
        codes,
        scales,
        rows,
        padded,
        cols,
        LARGEST=LARGEST[torch.float8_e4m3fn],
        CONVERTS=converts(x),
        ROWS=ROWS,
        COLS=COLS,
        enable_fp_fusion=False,
    )
    return codes.view(torch.float8_e4m3fn), scales
