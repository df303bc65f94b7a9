"""Encode heads in E4M3 with a scale for each sample and head; ``heads.py`` has the meaning.

Two launches: the largest magnitudes, which programs join as integers (their order does not
matter), then the codes.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.encode_byte_rows import TINY, converts, e4m3_code, size_of

VALUES_PER_PROGRAM = 8192


@triton.jit
def _tile(x_ptr, mean_ptr, tokens, batch_stride, HEADS, D, WIDTH, TOKENS, SMOOTH):
    """Numbers of TOKENS tokens of a head, their places in a contiguous result, and which exist."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    head = tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    col = tl.arange(0, WIDTH)
    mask = (token < tokens)[:, None] & (col < D)[None, :]
    at = (token.to(tl.int64) * HEADS + head)[:, None] * D + col[None, :]
    x = tl.load(x_ptr + sample * batch_stride + at, mask=mask, other=0.0).to(tl.float32)
    if SMOOTH:
        mean = tl.load(mean_ptr + (sample * HEADS + head) * D + col, mask=col < D, other=0.0)
        x = tl.where(mask, x - mean[None, :], 0.0)
    return x, sample * tokens * HEADS * D + at, mask


@triton.jit
def _largest(
    x_ptr,
    mean_ptr,
    amax_ptr,
    tokens,
    batch_stride,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    SMOOTH: tl.constexpr,
):
    x, _, _ = _tile(x_ptr, mean_ptr, tokens, batch_stride, HEADS, D, WIDTH, TOKENS, SMOOTH)
    amax = tl.max(tl.max(size_of(x), axis=1), axis=0)
    tl.atomic_max(amax_ptr + tl.program_id(2) * HEADS + tl.program_id(1), amax)


@triton.jit
def _codes(
    x_ptr,
    mean_ptr,
    amax_ptr,
    codes_ptr,
    scales_ptr,
    tokens,
    batch_stride,
    LARGEST: tl.constexpr,
    CONVERTS: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    SMOOTH: tl.constexpr,
):
    x, at, mask = _tile(x_ptr, mean_ptr, tokens, batch_stride, HEADS, D, WIDTH, TOKENS, SMOOTH)
    place = tl.program_id(2) * HEADS + tl.program_id(1)
    amax = tl.load(amax_ptr + place + tl.zeros((1,), tl.int32)).to(tl.float32, bitcast=True)
    scale = tl.div_rn(amax, tl.full(amax.shape, LARGEST, tl.float32))
    scale = tl.where(scale < TINY, TINY, scale)
    if tl.program_id(0) == 0:
        tl.store(scales_ptr + place + tl.zeros((1,), tl.int32), scale)
    inverse = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
    tl.store(codes_ptr + at, e4m3_code(x * inverse[:, None], CONVERTS), mask=mask)


def encode_heads(x: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes and scales of [batch, tokens, heads, head_dim], whose tokens lie in one run."""
    batch, tokens, heads, head_dim = x.shape
    if x.stride()[1:] != (heads * head_dim, head_dim, 1):
        x = x.contiguous()
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty(batch, heads, dtype=torch.float32, device=x.device)
    amax = torch.zeros(batch, heads, dtype=torch.int32, device=x.device)
    means = scales if mean is None else mean.contiguous()
    width = triton.next_power_of_2(head_dim)
    per_program = max(1, VALUES_PER_PROGRAM // width)
    grid = (triton.cdiv(tokens, per_program), heads, batch)
    _largest[grid](
        x,
        means,
        amax,
        tokens,
        x.stride(0),
        HEADS=heads,
        D=head_dim,
        WIDTH=width,
        TOKENS=per_program,
        SMOOTH=mean is not None,
        enable_fp_fusion=False,
    )
    _codes[grid](
        x,
        means,
        amax,
        codes,
        scales,
        tokens,
        x.stride(0),
        LARGEST=LARGEST[torch.float8_e4m3fn],
        CONVERTS=converts(x),
        HEADS=heads,
        D=head_dim,
        WIDTH=width,
        TOKENS=per_program,
        SMOOTH=mean is not None,
        enable_fp_fusion=False,
    )
    return codes.view(torch.float8_e4m3fn), scales
