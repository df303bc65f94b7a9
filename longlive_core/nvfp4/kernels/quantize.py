"""Quantise to NVFP4 on CUDA: a matrix alone, or with its transpose in the same pass."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK, QuantizeConfig
from longlive_core.nvfp4.kernels.arithmetic import pack, quantize_blocks, rotate_blocks, uniforms

BLOCKS_PER_PROGRAM = 128  # of 1 x 16; of 16 x 16 an eighth as many
TILE = 64  # rows and columns of a program that also quantises the transpose


@triton.jit
def _at(start, blocks_per_row, PER_LINE: tl.constexpr, COUNT: tl.constexpr):
    """Where the parts of blocks lie, [T, COUNT], if a line of 16 values has PER_LINE of them.

    ``start`` is the block's first line, counted over the matrix row by row.
    """
    part = tl.arange(0, COUNT)
    line = start[:, None] + ((part // PER_LINE) * blocks_per_row)[None, :]
    return line * PER_LINE + (part % PER_LINE)[None, :]


@triton.jit
def _quantize(
    x_ptr,
    amax_ptr,
    seed_ptr,
    codes_ptr,
    scales_ptr,
    blocks,
    blocks_per_row,
    blocks_per_amax,
    RULE: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ONE_AMAX: tl.constexpr,
    HEIGHT: tl.constexpr,
    T: tl.constexpr,
):
    """T blocks of HEIGHT x 16 values; blocks are counted row by row."""
    N: tl.constexpr = HEIGHT * 16
    block = tl.program_id(0) * T + tl.arange(0, T)
    inside = block < blocks
    start = block.to(tl.int64)
    if HEIGHT > 1:
        start += (block // blocks_per_row).to(tl.int64) * blocks_per_row * (HEIGHT - 1)
    mask = inside[:, None]
    x = tl.load(x_ptr + _at(start, blocks_per_row, 16, N), mask=mask, other=0.0).to(tl.float32)
    if ONE_AMAX:
        amax = tl.load(amax_ptr + tl.arange(0, 1))
    else:
        amax = tl.load(amax_ptr + block // blocks_per_amax, mask=inside, other=1.0)
    uniform = x
    if STOCHASTIC:
        uniform = uniforms(_at(start, blocks_per_row, 4, N // 4), tl.load(seed_ptr), T, N // 4)
    code, byte = quantize_blocks(x, amax, uniform, RULE, TARGET, FULL, STOCHASTIC, N)
    tl.store(codes_ptr + _at(start, blocks_per_row, 8, N // 2), pack(code, T, N), mask=mask)
    byte = tl.broadcast_to(byte[:, None], (T, HEIGHT)).to(tl.uint8)
    tl.store(scales_ptr + _at(start, blocks_per_row, 1, HEIGHT), byte, mask=mask)


@triton.jit
def _load_tile(x_ptr, rows, cols, TILE: tl.constexpr):
    """A program's square of values as float32, zero outside, and its first row and column."""
    first_row, first_col = tl.program_id(0) * TILE, tl.program_id(1) * TILE
    row, col = first_row + tl.arange(0, TILE), first_col + tl.arange(0, TILE)
    mask = (row < rows)[:, None] & (col < cols)[None, :]
    at = row.to(tl.int64)[:, None] * cols + col[None, :]
    return tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32), first_row, first_col


@triton.jit
def _store_tile(ptr, values, first_row, first_col, rows, cols, TILE: tl.constexpr):
    """Bytes of a square [TILE, WIDTH] into a matrix of rows x cols."""
    row = first_row + tl.arange(0, TILE)
    col = first_col + tl.arange(0, values.shape[1])
    mask = (row < rows)[:, None] & (col < cols)[None, :]
    tl.store(ptr + (row.to(tl.int64)[:, None] * cols + col[None, :]), values, mask=mask)


@triton.jit
def _quantize_tile(
    x,
    first_row,
    first_col,
    rows,
    cols,
    amax_ptr,
    seed_ptr,
    codes_ptr,
    scales_ptr,
    RULE: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROTATED: tl.constexpr,
    ROUNDED_TO: tl.constexpr,
    TILE: tl.constexpr,
):
    """A square of values, quantised along its columns, into a matrix of rows x cols."""
    T: tl.constexpr = TILE * TILE // 16
    x = tl.reshape(x, (T, 16))
    if ROTATED:
        x = rotate_blocks(x, T).to(ROUNDED_TO).to(tl.float32)
    amax = tl.load(amax_ptr + tl.arange(0, 1))
    uniform = x
    if STOCHASTIC:
        row = (first_row + tl.arange(0, TILE)).to(tl.int64)
        quad = row[:, None] * (cols // 4) + (first_col // 4 + tl.arange(0, TILE // 4))[None, :]
        uniform = uniforms(tl.reshape(quad, (T, 4)), tl.load(seed_ptr), T, 4)
    code, byte = quantize_blocks(x, amax, uniform, RULE, TARGET, FULL, STOCHASTIC, 16)
    packed = tl.reshape(pack(code, T, 16), (TILE, TILE // 2))
    _store_tile(codes_ptr, packed, first_row, first_col // 2, rows, cols // 2, TILE)
    byte = tl.reshape(byte, (TILE, TILE // 16)).to(tl.uint8)
    _store_tile(scales_ptr, byte, first_row, first_col // 16, rows, cols // 16, TILE)


@triton.jit
def _quantize_both(
    x_ptr,
    amax_ptr,
    amax_t_ptr,
    seeds_ptr,
    codes_ptr,
    scales_ptr,
    codes_t_ptr,
    scales_t_ptr,
    rows,
    cols,
    RULE: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROTATED: tl.constexpr,
    TILE: tl.constexpr,
):
    """A square of values along its columns and along its rows."""
    x, row, col = _load_tile(x_ptr, rows, cols, TILE)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    _quantize_tile(
        x, row, col, rows, cols, amax_ptr, seeds_ptr, codes_ptr, scales_ptr,
        RULE, TARGET, FULL, STOCHASTIC, False, dtype, TILE,
    )  # fmt: skip
    _quantize_tile(
        tl.trans(x), col, row, cols, rows, amax_t_ptr, seeds_ptr + 1, codes_t_ptr, scales_t_ptr,
        RULE, TARGET, FULL, STOCHASTIC, ROTATED, dtype, TILE,
    )  # fmt: skip


@triton.jit
def _rotated_amax(x_ptr, bits_ptr, rows, cols, TILE: tl.constexpr):
    """The bits of the largest magnitude of the rotated transpose."""
    x, _, _ = _load_tile(x_ptr, rows, cols, TILE)
    blocks = tl.reshape(tl.trans(x), (TILE * TILE // 16, 16))
    rotated = rotate_blocks(blocks, TILE * TILE // 16).to(x_ptr.dtype.element_ty).to(tl.float32)
    bits = rotated.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    tl.atomic_max(bits_ptr, tl.max(tl.max(bits, axis=1), axis=0))


def quantize(
    x: Tensor, amax: Tensor, config: QuantizeConfig, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Codes and block scales of a contiguous matrix of whole blocks."""
    rows, cols = x.shape
    height = config.block[0]
    codes, scales = _empty(x, rows, cols)
    blocks_per_row = cols // BLOCK
    blocks = rows // height * blocks_per_row
    per_program = BLOCKS_PER_PROGRAM if height == 1 else BLOCKS_PER_PROGRAM // 8
    _quantize[(triton.cdiv(blocks, per_program),)](
        x,
        amax,
        amax if seed is None else seed,
        codes,
        scales.view(torch.uint8),
        blocks,
        blocks_per_row,
        blocks // amax.numel(),
        **_rule(config),
        ONE_AMAX=amax.numel() == 1,
        HEIGHT=height,
        T=per_program,
        enable_fp_fusion=False,
    )
    return codes, scales


def quantize_both(
    x: Tensor, amax: Tensor, config: QuantizeConfig, seeds: Tensor | None, rotated: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same of a matrix and of its transpose, rotated if asked for, and the transpose's amax."""
    rows, cols = x.shape
    grid = triton.cdiv(rows, TILE), triton.cdiv(cols, TILE)
    codes, scales = _empty(x, rows, cols)
    codes_t, scales_t = _empty(x, cols, rows)
    amax_t = rotated_amax(x) if rotated else amax.clone()
    _quantize_both[grid](
        x,
        amax,
        amax_t,
        amax if seeds is None else seeds,
        codes,
        scales.view(torch.uint8),
        codes_t,
        scales_t.view(torch.uint8),
        rows,
        cols,
        **_rule(config),
        ROTATED=rotated,
        TILE=TILE,
        enable_fp_fusion=False,
    )
    return codes, scales, codes_t, scales_t, amax_t


def rotated_amax(x: Tensor) -> Tensor:
    """The largest magnitude of the rotated transpose, which is not kept; NaN if not finite."""
    rows, cols = x.shape
    bits = torch.zeros((), dtype=torch.int32, device=x.device)
    grid = triton.cdiv(rows, TILE), triton.cdiv(cols, TILE)
    _rotated_amax[grid](x, bits, rows, cols, TILE=TILE, enable_fp_fusion=False)
    return bits.view(torch.float32).nan_to_num(nan=torch.nan, posinf=torch.nan)


def _empty(x: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    codes = torch.empty(rows, cols // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, cols // BLOCK, dtype=torch.float8_e4m3fn, device=x.device)
    return codes, scales


def _rule(config: QuantizeConfig) -> dict[str, str | float | bool]:
    return {
        "RULE": config.rule.value if config.rule.adaptive else "amax",
        "TARGET": config.rule.target,
        "FULL": config.full_scale,
        "STOCHASTIC": config.rounding == "stochastic",
    }
