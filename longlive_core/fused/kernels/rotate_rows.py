"""Norm over all heads and rotation in one launch; ``fused.rotate_ops`` has the meaning."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.fused.kernels.launch import tile
from longlive_core.fused.kernels.row_math import rms_statistic, rounded


@triton.jit
def _rotate(
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    rows,
    tokens,
    sample_stride,
    angle_stride,
    NORMS: tl.constexpr,
    TURNS: tl.constexpr,
    EPS: tl.constexpr,
    NATIVE: tl.constexpr,
    PAIRS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of D numbers, of heads with PAIRS pairs each."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)[None, :]
    sample = (row // tokens).to(tl.int64)
    token = (row % tokens).to(tl.int64)
    mask = (row < rows)[:, None] & (col < D)
    x = tl.load(x_ptr + row.to(tl.int64)[:, None] * D + col, mask=mask, other=0.0)
    if NORMS:
        wide = x.to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=col < D, other=0.0).to(tl.float32)
        x = rounded((wide * rms_statistic(wide, D, EPS)[:, None]) * weight, NATIVE)
    if TURNS:
        pair = tl.arange(0, WIDTH // 2)[None, :]
        seen = (row < rows)[:, None] & (pair < D // 2)
        angle = (sample * angle_stride + token * PAIRS)[:, None] + pair % PAIRS
        cos = tl.load(cos_ptr + angle, mask=seen, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + 2 * angle + 1, mask=seen, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(x.to(tl.float32), (ROWS, WIDTH // 2, 2)))
        turned = tl.join(a * cos - b * sin, b * cos + a * sin)
        x = rounded(tl.reshape(turned, (ROWS, WIDTH)), NATIVE)
    tl.store(out_ptr + (sample * sample_stride + token * D)[:, None] + col, x, mask=mask)


def rotate_heads(
    x: Tensor,
    heads: int,
    weight: Tensor | None,
    eps: float,
    angles: tuple[Tensor, Tensor] | None,
    out: Tensor | None,
) -> Tensor:
    """The heads; tensors as ``fused.rotate_ops`` has them."""
    batch, tokens, dim = x.shape
    x = x.contiguous()
    head_dim = dim // heads
    made = torch.empty(batch, tokens, heads, head_dim, dtype=x.dtype, device=x.device)
    fits = out is not None and out.dtype == x.dtype and out.stride()[1:] == made.stride()[1:]
    target = out if fits and out is not None else made
    cos, sin, angle_stride = x, x, 0
    if angles is not None:
        cos, sin = (angle.contiguous() for angle in angles)
        angle_stride = 0 if cos.shape[0] == 1 else tokens * (head_dim // 2)
    width, per_program, warps = tile(dim)
    _rotate[(triton.cdiv(batch * tokens, per_program),)](
        x,
        x if weight is None else weight.contiguous(),
        cos,
        sin,
        target,
        batch * tokens,
        tokens,
        target.stride(0),
        angle_stride,
        NORMS=weight is not None,
        TURNS=angles is not None,
        EPS=eps,
        NATIVE=x.is_cuda,
        PAIRS=head_dim // 2,
        D=dim,
        WIDTH=width,
        ROWS=per_program,
        num_warps=warps,
        enable_fp_fusion=False,
    )
    return target if out is None or fits else out.copy_(made)
