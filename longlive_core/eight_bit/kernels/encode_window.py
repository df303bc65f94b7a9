"""Bring a window of heads in E4M3 up to date; ``head_window.py`` has the meaning.

At the first call of a window: the largest magnitudes of all its parts, then their codes. Later two
launches: codes of the own tokens with the scale that is there, and their largest magnitudes beside
them; then a kernel that ends at once if these fit, and else scales the head anew.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from collections.abc import Sequence

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.kernels.e4m3 import NAN_BYTE, e4m3_value
from longlive_core.eight_bit.kernels.encode_byte_rows import converts, e4m3_code, size_of

VALUES_PER_PROGRAM = 8192
PROGRAMS = 16
"""Of a head, that scale it anew if need be: few, for they are seldom needed."""
NOT_FINITE = tl.constexpr(0x7F800000)


@triton.jit
def _places(token, tokens, HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Where a head's numbers of these tokens lie in a sample, and which exist."""
    col = tl.arange(0, WIDTH)
    at = (token.to(tl.int64) * HEADS + tl.program_id(1))[:, None] * D + col[None, :]
    return at, (token < tokens)[:, None] & (col < D)[None, :]


@triton.jit
def _fitting(bits):
    """The scale of a magnitude that is given by its bits."""
    exponent = (bits >> 23) - 7 + ((bits & 0x7FFFFF) > 0x600000).to(tl.int32)
    scale = (tl.maximum(exponent, 1) << 23).to(tl.float32, bitcast=True)
    return tl.where(bits >= NOT_FINITE, float("nan"), scale)


@triton.jit
def _largest(
    x_ptr,
    amax_ptr,
    tokens,
    batch_stride,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    at, mask = _places(token, tokens, HEADS, D, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    x = tl.load(x_ptr + sample * batch_stride + at, mask=mask, other=0.0).to(tl.float32)
    amax = tl.max(tl.max(size_of(x), axis=1), axis=0)
    tl.atomic_max(amax_ptr + tl.program_id(2) * HEADS + tl.program_id(1), amax)


@triton.jit
def _window_codes(
    x_ptr,
    amax_ptr,
    scales_ptr,
    codes_ptr,
    tokens,
    batch_stride,
    codes_stride,
    FIRST: tl.constexpr,
    CONVERTS: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """FIRST: the scale follows from ``amax``, and is stored; else it is there, and amax is not."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    at, mask = _places(token, tokens, HEADS, D, WIDTH)
    sample = tl.program_id(2).to(tl.int64)
    x = tl.load(x_ptr + sample * batch_stride + at, mask=mask, other=0.0).to(tl.float32)
    place = tl.program_id(2) * HEADS + tl.program_id(1) + tl.zeros((1,), tl.int32)
    if FIRST:
        scale = _fitting(tl.load(amax_ptr + place))
        if tl.program_id(0) == 0:
            tl.store(scales_ptr + place, scale)
    else:
        scale = tl.load(scales_ptr + place)
        amax = tl.max(tl.max(size_of(x), axis=1), axis=0)
        tl.atomic_max(amax_ptr + tl.program_id(2) * HEADS + tl.program_id(1), amax)
    inverse = tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)
    code = e4m3_code(x * inverse[:, None], CONVERTS)
    tl.store(codes_ptr + sample * codes_stride + at, code, mask=mask)


@triton.jit
def _value(code, CONVERTS: tl.constexpr):
    if CONVERTS:
        return code.to(tl.float8e4nv, bitcast=True).to(tl.float32)
    byte = code.to(tl.int32)
    size = e4m3_value(byte & NAN_BYTE)
    return tl.where(byte > NAN_BYTE, -size, size)


@triton.jit
def _grow_window(
    x_ptr,
    amax_ptr,
    scales_ptr,
    new_scales_ptr,
    past_ptr,
    own_ptr,
    tokens,
    past,
    batch_stride,
    codes_stride,
    LARGEST: tl.constexpr,
    CONVERTS: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Scale a head anew where its own tokens are beyond its scale: codes of past and own tokens."""
    place = tl.program_id(2) * HEADS + tl.program_id(1) + tl.zeros((1,), tl.int32)
    bits = tl.load(amax_ptr + place)
    scale = tl.load(scales_ptr + place)
    fits = bits.to(tl.float32, bitcast=True) <= scale * LARGEST
    new = tl.where(fits, scale, _fitting(bits))
    if tl.program_id(0) == 0:
        tl.store(new_scales_ptr + place, new)
    if tl.max(tl.where(fits, 0, 1), axis=0) > 0:
        sample = tl.program_id(2).to(tl.int64)
        one = tl.full(new.shape, 1.0, tl.float32)
        shrinks = tl.div_rn(one, tl.div_rn(new, scale))
        inverse = tl.div_rn(one, new)
        step = tl.num_programs(0) * TOKENS
        first = tl.program_id(0) * TOKENS
        while first < past:
            token = first + tl.arange(0, TOKENS)
            at, mask = _places(token, past, HEADS, D, WIDTH)
            room = past_ptr + sample * codes_stride + at
            value = _value(tl.load(room, mask=mask, other=0), CONVERTS)
            tl.store(room, e4m3_code(value * shrinks[:, None], CONVERTS), mask=mask)
            first += step
        first = tl.program_id(0) * TOKENS
        while first < tokens:
            token = first + tl.arange(0, TOKENS)
            at, mask = _places(token, tokens, HEADS, D, WIDTH)
            x = tl.load(x_ptr + sample * batch_stride + at, mask=mask, other=0.0).to(tl.float32)
            code = e4m3_code(x * inverse[:, None], CONVERTS)
            tl.store(own_ptr + sample * codes_stride + at, code, mask=mask)
            first += step


def encode_window(
    codes: Tensor, own: Tensor, past: Sequence[Tensor], scales: Tensor | None
) -> Tensor:
    """The scales of a contiguous window [batch, tokens, heads, head_dim] that is brought up to
    date; tokens of a sample lie in one run."""
    batch, tokens, heads, head_dim = codes.shape
    room = codes.view(torch.uint8)
    own = _in_a_run(own)
    amax = torch.zeros(batch, heads, dtype=torch.int32, device=own.device)
    width = triton.next_power_of_2(head_dim)
    per_program = max(1, VALUES_PER_PROGRAM // width)
    new = torch.empty(batch, heads, dtype=torch.float32, device=own.device)

    def grid(part: Tensor) -> tuple[int, int, int]:
        return triton.cdiv(part.shape[1], per_program), heads, batch

    def write(part: Tensor, start: int, scale: Tensor, first: bool) -> None:
        _window_codes[grid(part)](
            part,
            amax,
            scale,
            room[:, start:],
            part.shape[1],
            part.stride(0),
            codes.stride(0),
            FIRST=first,
            CONVERTS=converts(own),
            HEADS=heads,
            D=head_dim,
            WIDTH=width,
            TOKENS=per_program,
            enable_fp_fusion=False,
        )

    start = tokens - own.shape[1]
    if scales is None:
        parts = [*(_in_a_run(part) for part in past), own]
        for part in parts:
            _largest[grid(part)](
                part,
                amax,
                part.shape[1],
                part.stride(0),
                HEADS=heads,
                D=head_dim,
                WIDTH=width,
                TOKENS=per_program,
                enable_fp_fusion=False,
            )
        at = 0
        for part in parts:
            write(part, at, new, True)
            at += part.shape[1]
        return new
    write(own, start, scales, False)
    _grow_window[(min(PROGRAMS, triton.cdiv(tokens, per_program)), heads, batch)](
        own,
        amax,
        scales,
        new,
        room,
        room[:, start:],
        own.shape[1],
        start,
        own.stride(0),
        codes.stride(0),
        LARGEST=LARGEST[torch.float8_e4m3fn],
        CONVERTS=converts(own),
        HEADS=heads,
        D=head_dim,
        WIDTH=width,
        TOKENS=per_program,
        enable_fp_fusion=False,
    )
    return new


def _in_a_run(x: Tensor) -> Tensor:
    heads, head_dim = x.shape[2:]
    return x if x.stride()[1:] == (heads * head_dim, head_dim, 1) else x.contiguous()
