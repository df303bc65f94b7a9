"""Encode rows in a byte a number: one read, codes and scales written; see ``byte_rows.py``."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.byte_rows import LARGEST
from longlive_core.kernels.e4m3 import NAN_BYTE, e4m3_byte

VALUES_PER_PROGRAM = 4096
VALUES_PER_WARP = 1024
TINY = tl.constexpr(1.1754943508222875e-38)  # float32's smallest normal number


@triton.jit
def _encode(
    x_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    LARGEST: tl.constexpr,
    E4M3: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of D numbers."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)
    inside = row < rows
    at = row.to(tl.int64)[:, None] * D + col[None, :]
    mask = inside[:, None] & (col < D)[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    # as integers, magnitudes keep their order, and NaN is the largest
    size = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    amax = tl.max(size, axis=1).to(tl.float32, bitcast=True)
    if E4M3:
        scale = tl.div_rn(amax, tl.full(amax.shape, LARGEST, tl.float32))
    else:
        scale = amax * (1.0 / LARGEST)
    scale = tl.where(scale < TINY, TINY, scale)
    y = tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape))
    if E4M3:
        sign = (y.to(tl.int32, bitcast=True) >> 24) & 0x80
        code = tl.where(y == y, e4m3_byte(tl.abs(y)) | sign, NAN_BYTE)
    else:
        y = tl.where(y == y, tl.minimum(tl.maximum(y, -LARGEST), LARGEST), 0.0)
        # float32's step is 1 at 1.5 * 2**23: adding it rounds to an integer, in the lowest bits
        code = (y + 12582912.0).to(tl.int32, bitcast=True)
    tl.store(codes_ptr + at, code.to(tl.uint8), mask=mask)
    tl.store(scales_ptr + row, scale, mask=inside)


def encode_rows(rows: Tensor, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes and scales of a contiguous matrix."""
    count, cols = rows.shape
    codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=rows.device)
    width = triton.next_power_of_2(cols)
    per_program = max(1, VALUES_PER_PROGRAM // width)
    _encode[(triton.cdiv(count, per_program),)](
        rows,
        codes,
        scales,
        count,
        LARGEST=LARGEST[code_dtype],
        E4M3=code_dtype == torch.float8_e4m3fn,
        D=cols,
        WIDTH=width,
        ROWS=per_program,
        num_warps=min(32, max(1, per_program * width // VALUES_PER_WARP)),
        enable_fp_fusion=False,
    )
    return codes.view(code_dtype), scales
