"""Block scales in the order that tensor cores read them: tiles of 128 rows by 4 columns.

Files and every computation here keep scales linear, [rows, columns / 16]. A Blackwell GEMM reads
them padded to whole tiles of 512 bytes, tiles row by row, and within a tile

    offset(r, c) = ((r // 128) * ceil(C / 4) + c // 4) * 512
                   + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4

cuBLAS calls it SWIZZLE_32_4_4; the original's packed checkpoints store it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float8e4m3fn
from torch import Tensor

from longlive_core.checks import whole
from longlive_core.tensor_checks import dense

TILE_ROWS, TILE_COLS = 128, 4


def swizzle(scales: Float8e4m3fn[Tensor, "rows cols"]) -> Float8e4m3fn[Tensor, " padded"]:
    """Linear block scales in the tiled order, padded with zeros to whole tiles, flat."""
    _check_scales(scales)
    if scales.ndim != 2:
        raise ValueError(
            f"swizzle takes linear block scales [rows, cols], got shape {tuple(scales.shape)}: are "
            f"they in tiles already?"
        )
    rows, cols = scales.shape
    height, width = swizzled_size(rows, cols)
    matrix = F.pad(scales.view(torch.uint8), (0, width - cols, 0, height - rows))
    tiles = matrix.view(height // TILE_ROWS, 4, 32, width // TILE_COLS, TILE_COLS)
    return tiles.permute(0, 3, 2, 1, 4).flatten().view(torch.float8_e4m3fn)


def unswizzle(
    scales: Float8e4m3fn[Tensor, "..."], rows: int, cols: int
) -> Float8e4m3fn[Tensor, "rows cols"]:
    """Linear block scales [rows, cols] from the tiled order; the padding is dropped.

    Raises ``ValueError`` unless there are as many scales as these rows and columns need.
    """
    _check_scales(scales)
    why = "it is a size of the block scales without their padding."
    rows, cols = whole("rows", rows, at_least=0, why=why), whole("cols", cols, at_least=0, why=why)
    height, width = swizzled_size(rows, cols)
    if scales.numel() != height * width:
        raise ValueError(
            f"unswizzle to {rows} rows of {cols} block scales needs {height * width} of them "
            f"(padded to tiles of {TILE_ROWS} x {TILE_COLS}), got {scales.numel()}. "
            f"Are they linear already, or of another matrix?"
        )
    tiles = scales.view(torch.uint8).reshape(
        height // TILE_ROWS, width // TILE_COLS, 32, 4, TILE_COLS
    )
    matrix = tiles.permute(0, 3, 2, 1, 4).reshape(height, width)
    return matrix[:rows, :cols].contiguous().view(torch.float8_e4m3fn)


def _check_scales(scales: Tensor) -> None:
    dense("block scales", scales, why="take those of an NVFP4Tensor.")
    if scales.dtype not in (torch.float8_e4m3fn, torch.uint8):
        raise ValueError(
            f"block scales are float8_e4m3fn, or its bytes in uint8, got {scales.dtype}: the order "
            f"is one of bytes. Take the original bits."
        )


def swizzled_size(rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns of block scales, rounded up to whole tiles."""
    return -(-rows // TILE_ROWS) * TILE_ROWS, -(-cols // TILE_COLS) * TILE_COLS
