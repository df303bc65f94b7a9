"""Decode the visible pages of a layer's keys and values, a byte a number, in one launch."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from collections.abc import Sequence

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

VALUES_PER_PROGRAM = 8192


@triton.jit
def _e4m3_value(byte):
    """The float32 value of an E4M3 byte (int32), divided by 2**8: it goes through float16."""
    bits = ((byte & 0x7F) << 7) | ((byte & 0x80) << 8)
    value = bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
    return tl.where((byte & 0x7F) == 0x7F, float("nan"), value)


@triton.jit
def _decode(
    codes_ptr,
    scales_ptr,
    out_ptr,
    page,
    rows,
    E4M3: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of D numbers of one sample's page, to the same place of the page at ``out_ptr``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, WIDTH)
    inside = row < rows
    at = row[:, None] * D + col[None, :]
    mask = inside[:, None] & (col < D)[None, :]
    byte = tl.load(codes_ptr + page * rows * D + at, mask=mask, other=0)
    scale = tl.load(scales_ptr + page * rows + row, mask=inside, other=0.0)
    if E4M3:
        value = _e4m3_value(byte.to(tl.int32))
        scale *= 256.0
    else:
        value = byte.to(tl.float32)
    out = (value * scale[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, out, mask=mask)


@triton.jit
def _decode_pages(
    slots_ptr,
    codes_a_ptr,
    scales_a_ptr,
    out_a_ptr,
    codes_b_ptr,
    scales_b_ptr,
    out_b_ptr,
    samples,
    rows,
    rows_per_sample,
    E4M3: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Programs: a part of a page, a slot and sample, a store (a or b).

    A sample's page has ``rows`` rows, one for each token and head; its pages lie one after another
    in an output with room for ``rows_per_sample``.
    """
    place, sample = tl.program_id(1) // samples, tl.program_id(1) % samples
    page = tl.load(slots_ptr + place).to(tl.int64) * samples + sample
    start = (sample.to(tl.int64) * rows_per_sample + place.to(tl.int64) * rows) * D
    if tl.program_id(2) == 0:
        _decode(codes_a_ptr, scales_a_ptr, out_a_ptr + start, page, rows, E4M3, D, WIDTH, ROWS)
    else:
        _decode(codes_b_ptr, scales_b_ptr, out_b_ptr + start, page, rows, E4M3, D, WIDTH, ROWS)


def decode_pages(
    outs: Sequence[Tensor], codes: Sequence[Tensor], scales: Sequence[Tensor], slots: Tensor
) -> None:
    """Decode these slots of one or two stores; ``slots`` is int32, on the device."""
    samples, tokens, heads, head_dim = codes[0].shape[1:]
    e4m3 = codes[0].dtype == torch.float8_e4m3fn
    operands = []
    assert len(outs) <= 2, len(outs)
    for numbers, factors, out in zip(codes, scales, outs, strict=True):
        assert out[0].is_contiguous(), out.stride()
        operands.append((numbers.view(torch.uint8) if e4m3 else numbers, factors, out))
    width = triton.next_power_of_2(head_dim)
    rows_per_program = max(1, VALUES_PER_PROGRAM // width)
    grid = (
        triton.cdiv(tokens * heads, rows_per_program),
        slots.numel() * samples,
        len(operands),
    )
    _decode_pages[grid](
        slots,
        *operands[0],
        *operands[-1],
        samples,
        tokens * heads,
        outs[0].stride(0) // head_dim,
        E4M3=e4m3,
        D=head_dim,
        WIDTH=width,
        ROWS=rows_per_program,
        enable_fp_fusion=False,
    )
