"""FP8 matrices: numbers of eight bits that share a scale with their neighbors.

A matrix is stored as E4M3 codes and float32 scales, and read back as ``code * scale``. A block of
numbers shares one scale, ``amax / 448``, so that its largest number becomes E4M3's largest:

    1 x cols     one scale a row: products scale their rows and columns afterwards
    1 x 128      activations of the accurate variant
    128 x 128    weights of the accurate variant

Rounding is to nearest, ties to even. A block of zeros has the smallest scale and decodes to zeros.
A NaN or an infinity makes its whole block NaN.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float, Float8e4m3fn, Float32
from torch import Tensor
from torch.nn.functional import pad

from longlive_core.checks import instance
from longlive_core.eight_bit.columnwise import column_amax, encode_columns
from longlive_core.eight_bit.rowwise import encode_rows
from longlive_core.tensor_checks import dense, float_type
from longlive_core.training_linear import ReduceAmax as ReduceAmax

BLOCK = 128


class Scaling(Enum):
    """Which numbers share a scale: a row's, 128 neighbors' of a row, or a square's."""

    ROW = "row"
    ROW_BLOCK = "1x128"
    SQUARE = "128x128"


@dataclass(frozen=True, kw_only=True)
class Float8Tensor:
    """A matrix in FP8: ``codes`` [rows, cols], E4M3, and float32 ``scales``.

    Scales are [rows, 1], [rows, cols / 128] or [rows / 128, cols / 128], as ``scaling`` says. A
    number is read as code * scale.
    """

    codes: Float8e4m3fn[Tensor, "rows cols"]
    scales: Float32[Tensor, "row_blocks col_blocks"]
    scaling: Scaling


def quantize(x: Float[Tensor, "..."], scaling: Scaling = Scaling.ROW) -> Float8Tensor:
    """Round a matrix to FP8. The last blocks of a ragged matrix are smaller.

    In float32 whatever ``x`` is in: ``scale = max(amax / 448, 2 ** -126)``, ``code = x / scale``.
    """
    dense("what float8.quantize rounds", x, why="it is a matrix of float numbers.")
    instance("float8.quantize's scaling", scaling, Scaling, why="use Scaling.ROW, say.")
    if x.ndim != 2:
        raise ValueError(
            f"float8.quantize rounds a matrix, got shape {tuple(x.shape)}: scales belong to "
            f"rows or blocks of one. Flatten the leading dimensions; a row is x.reshape(1, -1)."
        )
    if scaling is Scaling.ROW:
        codes, scales = encode_rows(x, torch.float8_e4m3fn)
        return Float8Tensor(codes=codes, scales=scales, scaling=scaling)
    rows, cols = x.shape
    height = BLOCK if scaling is Scaling.SQUARE else 1
    missing = (0, -cols % BLOCK, 0, -rows % height)
    whole = pad(x, missing) if any(missing) else x
    blocks = whole.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, height)).transpose(1, 2)
    codes, scales = encode_rows(blocks.flatten(2).flatten(0, 1), torch.float8_e4m3fn)
    codes = codes.view(blocks.shape).transpose(1, 2).flatten(2).flatten(0, 1)[:rows, :cols]
    return Float8Tensor(
        codes=codes.contiguous(), scales=scales.view(blocks.shape[:2]), scaling=scaling
    )


def quantize_columns(
    x: Float[Tensor, "rows cols"], reduce_amax: ReduceAmax | None = None
) -> Float8Tensor:
    """Round a matrix's transpose to FP8 by its rows, [cols, rows], filled up to a multiple of 16.

    In float32 whatever ``x`` is in. ``reduce_amax`` is given the largest magnitude of each column.
    """
    amax = column_amax(x)
    if reduce_amax is not None:
        amax = reduce_amax(amax)
    codes, scales = encode_columns(x, amax)
    return Float8Tensor(codes=codes, scales=scales, scaling=Scaling.ROW)


def dequantize(q: Float8Tensor, dtype: torch.dtype = torch.float32) -> Float[Tensor, "rows cols"]:
    """The matrix that ``q`` stands for: multiplied in float32, rounded once to ``dtype``."""
    why = "it holds codes and scales. Pass what quantize gave."
    instance("what float8.dequantize reads", q, Float8Tensor, why=why)
    float_type("float8.dequantize's dtype", dtype, why="values are no whole numbers.")
    return (q.codes.float() * spread(q.scales, q.codes.shape, q.scaling)).to(dtype)


def scale_shape(rows: int, cols: int, scaling: Scaling) -> tuple[int, int]:
    """The shape of the scales of a matrix."""
    row_blocks = -(-rows // BLOCK) if scaling is Scaling.SQUARE else rows
    return row_blocks, 1 if scaling is Scaling.ROW else -(-cols // BLOCK)


def spread(
    scales: Float32[Tensor, "row_blocks col_blocks"], shape: tuple[int, ...], scaling: Scaling
) -> Float32[Tensor, "..."]:
    """The scale of every number, [rows, cols], or [rows, 1] where a row shares one."""
    if scaling is Scaling.ROW:
        return scales
    if scaling is Scaling.SQUARE:
        scales = scales.repeat_interleave(BLOCK, 0)[: shape[0]]
    return scales.repeat_interleave(BLOCK, 1)[:, : shape[1]]
