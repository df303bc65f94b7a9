"""Dequantize NVFP4 on CUDA: codes, block scales and amax to float32, bfloat16 or float16."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.nvfp4.format import QuantizeConfig
from longlive_core.nvfp4.kernels.arithmetic import code_value, e4m3_value

BLOCKS_PER_PROGRAM = 256


@triton.jit
def _dequantize(
    codes_ptr,
    scales_ptr,
    amax_ptr,
    out_ptr,
    blocks,
    blocks_per_amax,
    FULL: tl.constexpr,
    T: tl.constexpr,
):
    """T blocks of 16 values, counted row by row."""
    block = tl.program_id(0) * T + tl.arange(0, T)
    inside = block < blocks
    start = block.to(tl.int64)[:, None]
    mask = inside[:, None]
    packed = tl.load(codes_ptr + start * 8 + tl.arange(0, 8)[None, :], mask=mask, other=0)
    packed = packed.to(tl.int32)
    values = tl.join(code_value(packed & 0xF), code_value(packed >> 4))
    byte = tl.load(scales_ptr + block, mask=inside, other=0).to(tl.int32)
    scale = e4m3_value(byte) * 16384.0  # code_value is 2**14 too small
    amax = tl.load(amax_ptr + block // blocks_per_amax, mask=inside, other=0.0)
    products = tl.reshape(values, (T, 16)) * scale[:, None]
    out = (products * (amax * (1.0 / FULL))[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + start * 16 + tl.arange(0, 16)[None, :], out, mask=mask)


def dequantize(
    codes: Tensor, scales: Tensor, amax: Tensor, config: QuantizeConfig, out: Tensor
) -> None:
    """Write the values that codes and scales stand for into ``out``."""
    rows, half_cols = codes.shape
    blocks = rows * half_cols // 8
    target = (
        out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    )
    _dequantize[(triton.cdiv(blocks, BLOCKS_PER_PROGRAM),)](
        codes.contiguous(),
        scales.contiguous().view(torch.uint8),
        amax,
        target,
        blocks,
        blocks // amax.numel(),
        FULL=config.full_scale,
        T=BLOCKS_PER_PROGRAM,
        enable_fp_fusion=False,
    )
    if target is not out:
        out.copy_(target)
