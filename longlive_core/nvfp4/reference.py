"""NVFP4 in plain PyTorch: the meaning that every kernel must reproduce bit for bit.

A matrix ``x`` of shape (rows, cols) is stored as

    codes         E2M1, two to a byte, the even column in the low nibble   (rows, cols // 2)
    block_scales  E4M3, one for 16 neighboring columns                    (rows, cols // 16)
    amax          float32, the largest magnitude, one for the matrix       ()

and read back as

    x[r, c] = value(code[r, c]) * block_scale[r, c // 16] * (amax / (target * bound))

value(code) is one of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign. A value times a block scale has at
most six significant bits, so it is exact in bfloat16. ``target * bound`` is the largest such
product: 6 * 448 unless the scale rule says otherwise. Blocks of 16 x 16 repeat their scale on 16
rows.

Writing goes the same way back (``scale_rules.py`` has the order of operations, ``rounding.py`` the
rounding):

    block_scale = E4M3(how far the block's largest magnitude is from the matrix's)
    code        = E2M1(x / (block_scale * amax / (target * bound))), saturating at 6

What is at the edges:

- A matrix of zeros has amax 0, scales 0, codes 0, and decodes to 0; so does a block of zeros.
- A block so small that its scale rounds to 0 decodes to 0; its codes saturate, as in hardware.
- An amax below R / FLT_MAX, R = target * bound (7.9e-36 for 6 * 448), would need an encode scale
  beyond float32. The scale stays at FLT_MAX, and what is read back is too small by amax * FLT_MAX /
  R (and by what denormal numbers lose).
- A matrix without rows has no codes, no scales, and amax 0.
- ``amax`` may be larger than the matrix's own (one for several matrices); if it is smaller, scales
  and codes saturate.
- NaN propagates: an amax of NaN (what NaN or infinity in the data leads to) makes every scale NaN,
  byte 0x7F, and every value NaN. With an amax given, NaN in the data makes its own block NaN.

A matrix may hold several groups of rows with an amax of their own: then ``amax`` is a vector, and
the rows divide evenly, between blocks.

Source: LongLive-2.0 (arXiv 2605.18739), NVFP4 training and inference; the format is NVIDIA's
(arXiv 2509.25149), the arithmetic that of Transformer Engine's reference quantizer.
"""

import torch
from jaxtyping import Float, Float8e4m3fn, Float32, Int64, UInt8
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK, BlockShape, QuantizeConfig
from longlive_core.nvfp4.rounding import (
    decode_e2m1,
    random_uniform,
    round_nearest,
    round_stochastic,
)
from longlive_core.nvfp4.scale_rules import block_scales, decode_scale, encode_factor

Amax = Float32[Tensor, "*groups"]
Codes = UInt8[Tensor, "rows half_cols"]
Scales = Float8e4m3fn[Tensor, "rows blocks"]


def quantize(
    x: Float[Tensor, "rows cols"],
    amax: Amax,
    config: QuantizeConfig,
    seed: Int64[Tensor, ""] | None = None,
) -> tuple[Codes, Scales]:
    """Codes and block scales of a matrix that is a whole number of blocks high and wide.

    ``seed`` is for stochastic rounding, which draws one number an element, row by row. The scales
    do not depend on it.
    """
    blocks = split_blocks(x.float(), config.block)
    row_amax = spread(amax, blocks.shape[0])
    scales = block_scales(blocks, row_amax, config)
    scaled = blocks * encode_factor(scales, row_amax, config)[..., None]
    if config.rounding == "nearest":
        codes = round_nearest(scaled)
    else:
        assert seed is not None
        uniform = random_uniform(seed, x.numel()).view(x.shape)
        codes = round_stochastic(scaled, split_blocks(uniform, config.block))
    codes = join_blocks(codes, config.block)
    return codes[:, ::2] | codes[:, 1::2] << 4, repeat_rows(scales, config.block[0])


def dequantize(
    codes: Codes, scales: Scales, amax: Amax, config: QuantizeConfig
) -> Float32[Tensor, "rows cols"]:
    """The matrix that codes and scales stand for: (value * block scale) * (amax * (1 / R))."""
    tensor_scale = decode_scale(spread(amax, codes.shape[0]), config)
    return products(codes, scales) * tensor_scale


def products(codes: Codes, scales: Scales) -> Float32[Tensor, "rows cols"]:
    """Value times block scale, without the tensor's scale: exact, also in bfloat16."""
    values = decode_e2m1(codes).unflatten(-1, (-1, BLOCK))
    return (values * scales.float()[..., None]).flatten(-2)


def spread(amax: Amax, rows: int) -> Float32[Tensor, "rows 1"]:
    """The amax of every row: groups share the rows evenly, in order."""
    groups = amax.reshape(-1, 1)
    return groups.repeat_interleave(rows // groups.shape[0], dim=0)


def split_blocks(
    x: Float[Tensor, "rows cols"], block: BlockShape
) -> Float[Tensor, "block_rows block_cols elements"]:
    """A matrix as rows and columns of blocks, each flattened row by row."""
    height, width = block
    tiles = x.unflatten(1, (-1, width)).unflatten(0, (-1, height))
    return tiles.transpose(1, 2).flatten(2)


def join_blocks(
    blocks: UInt8[Tensor, "block_rows block_cols elements"], block: BlockShape
) -> UInt8[Tensor, "rows cols"]:
    """The inverse of ``split_blocks``."""
    tiles = blocks.unflatten(2, block).transpose(1, 2)
    return tiles.flatten(2).flatten(0, 1)


def repeat_rows(scales: Float8e4m3fn[Tensor, "block_rows blocks"], height: int) -> Scales:
    """Each row ``height`` times, as bytes: not every device repeats float8."""
    return scales.view(torch.uint8).repeat_interleave(height, 0).view(torch.float8_e4m3fn)
