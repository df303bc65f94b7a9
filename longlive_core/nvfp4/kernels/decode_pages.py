"""Decode the visible pages of a layer's keys and values in one launch."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from collections.abc import Sequence

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK, QuantizeConfig
from longlive_core.nvfp4.kernels.arithmetic import code_value, e4m3_value

WORDS_PER_PROGRAM = 1024  # of eight codes


@triton.jit
def _decode(
    codes_ptr, scales_ptr, amax_ptr, out_ptr, page, blocks, FULL: tl.constexpr, W: tl.constexpr
):
    """W words of eight codes of one sample's page, to the same place of the page at ``out_ptr``."""
    word = tl.program_id(0) * W + tl.arange(0, W)
    inside = word < blocks * 2
    codes = tl.load(codes_ptr + page * (blocks * 2) + word, mask=inside, other=0)
    value = code_value((codes[:, None] >> (tl.arange(0, 8) * 4)[None, :]) & 0xF)
    byte = tl.load(scales_ptr + page * blocks + word // 2, mask=inside, other=0).to(tl.int32)
    scale = e4m3_value(byte) * 16384.0  # code_value is 2**14 too small
    factor = tl.load(amax_ptr + page) * (1.0 / FULL)
    out = ((value * scale[:, None]) * factor).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + word[:, None] * 8 + tl.arange(0, 8)[None, :], out, mask=inside[:, None])


@triton.jit
def _decode_pages(
    slots_ptr,
    codes_a_ptr,
    scales_a_ptr,
    amax_a_ptr,
    out_a_ptr,
    codes_b_ptr,
    scales_b_ptr,
    amax_b_ptr,
    out_b_ptr,
    samples,
    blocks,
    blocks_per_sample,
    FULL: tl.constexpr,
    W: tl.constexpr,
):
    """Programs: a part of a page, a slot and sample, a store (a or b).

    A sample's page has ``blocks`` blocks of 16 values; its pages lie one after another in an
    output with room for ``blocks_per_sample``.
    """
    place, sample = tl.program_id(1) // samples, tl.program_id(1) % samples
    page = tl.load(slots_ptr + place).to(tl.int64) * samples + sample
    start = (sample.to(tl.int64) * blocks_per_sample + place.to(tl.int64) * blocks) * 16
    if tl.program_id(2) == 0:
        _decode(codes_a_ptr, scales_a_ptr, amax_a_ptr, out_a_ptr + start, page, blocks, FULL, W)
    else:
        _decode(codes_b_ptr, scales_b_ptr, amax_b_ptr, out_b_ptr + start, page, blocks, FULL, W)


def decode_pages(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    block_scales: Sequence[Tensor],
    amax: Sequence[Tensor],
    slots: Tensor,
    config: QuantizeConfig,
) -> None:
    """Decode these slots of one or two stores; ``slots`` is int32, on the device."""
    samples, tokens, half_width = codes[0].shape[1:]
    blocks = tokens * half_width * 2 // BLOCK
    operands = []
    assert len(outs) <= 2, len(outs)
    for store in zip(codes, block_scales, amax, outs, strict=True):
        packed, scales, largest, out = store
        assert out[0].is_contiguous(), out.stride()
        operands.append((packed.view(torch.int32), scales.view(torch.uint8), largest, out))
    grid = (triton.cdiv(blocks * 2, WORDS_PER_PROGRAM), slots.numel() * samples, len(operands))
    _decode_pages[grid](
        slots,
        *operands[0],
        *operands[-1],
        samples,
        blocks,
        outs[0].stride(0) // BLOCK,
        FULL=config.full_scale,
        W=WORDS_PER_PROGRAM,
        enable_fp_fusion=False,
    )
