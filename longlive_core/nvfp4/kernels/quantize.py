"""Quantize to NVFP4 on CUDA: a matrix alone, or with its transpose in the same pass."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import torch
import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK, QuantizeConfig
from longlive_core.nvfp4.kernels.arithmetic import (
    is_ordinary,
    quantize_blocks,
    rotate_blocks,
    uniforms,
)

BLOCKS_PER_PROGRAM = 256  # of 1 x 16; adaptive rules, which keep more of each, take half as many
SQUARES_PER_PROGRAM = 16  # blocks of 16 x 16
TILE = 64  # rows and columns of a program that also quantizes the transpose


@triton.jit
def _at(start, blocks_per_row, PER_LINE: tl.constexpr, COUNT: tl.constexpr):
    """Where the parts of blocks lie, [T, COUNT], if a line of 16 values has PER_LINE of them.

    ``start`` is the block's first line, counted over the matrix row by row.
    """
    part = tl.arange(0, COUNT)
    line = start[:, None] + ((part // PER_LINE) * blocks_per_row)[None, :]
    return line * PER_LINE + (part % PER_LINE)[None, :]


@triton.jit
def _load_along(ptr, inside, T: tl.constexpr):
    """Blocks of 16 neighbors that begin at ``ptr`` [T]: [T, 16].

    Halves are read apart, so that a thread holds whole blocks and reduces them alone.
    """
    at = ptr[:, None] + tl.arange(0, 8)[None, :]
    first = tl.load(at, mask=inside[:, None], other=0.0)
    second = tl.load(at + 8, mask=inside[:, None], other=0.0)
    return tl.reshape(tl.permute(tl.join(first, second), (0, 2, 1)), (T, 16))


@triton.jit
def _two(ptr, inside, step):
    return tl.join(
        tl.load(ptr, mask=inside, other=0.0), tl.load(ptr + 8 * step, mask=inside, other=0.0)
    )


@triton.jit
def _four(ptr, inside, step):
    return tl.join(_two(ptr, inside, step), _two(ptr + 4 * step, inside, step))


@triton.jit
def _eight(ptr, inside, step):
    return tl.join(_four(ptr, inside, step), _four(ptr + 2 * step, inside, step))


@triton.jit
def _load_apart(ptr, inside, step, T: tl.constexpr):
    """Blocks of 16 values ``step`` apart that begin at ``ptr`` [T]: [T, 16], whole in a thread."""
    x = tl.join(_eight(ptr, inside, step), _eight(ptr + step, inside, step))
    return tl.reshape(x, (T, 16))


@triton.jit
def _store(words, byte, codes_ptr, scales_ptr, inside, HEIGHT: tl.constexpr):
    tl.store(codes_ptr, words, mask=inside[:, None])
    byte = tl.broadcast_to(byte[:, None], (words.shape[0], HEIGHT)).to(tl.uint8)
    tl.store(scales_ptr, byte, mask=inside[:, None])


@triton.jit
def _block_amax(amax_ptr, block, blocks, blocks_per_amax, ONE_AMAX: tl.constexpr):
    """The amax that belongs to each block: [T], or [1] where there is one for all."""
    if ONE_AMAX:
        amax = tl.load(amax_ptr + tl.arange(0, 1))
    else:
        amax = tl.load(amax_ptr + block // blocks_per_amax, mask=block < blocks, other=1.0)
    return amax


@triton.jit
def _quantize_run(
    first,
    x_ptr,
    amax_ptr,
    seed_ptr,
    codes_ptr,
    scales_ptr,
    blocks,
    blocks_per_row,
    blocks_per_amax,
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ONE_AMAX: tl.constexpr,
    HEIGHT: tl.constexpr,
    ORDINARY: tl.constexpr,
    T: tl.constexpr,
):
    """T blocks of HEIGHT x 16 values from block ``first`` on; blocks are counted row by row."""
    N: tl.constexpr = HEIGHT * 16
    block = first + tl.arange(0, T)
    inside = block < blocks
    start = block.to(tl.int64)
    if HEIGHT > 1:
        start += (block // blocks_per_row).to(tl.int64) * blocks_per_row * (HEIGHT - 1)
        mask = inside[:, None]
        x = tl.load(x_ptr + _at(start, blocks_per_row, 16, N), mask=mask, other=0.0)
    else:
        x = _load_along(x_ptr + start * 16, inside, T)
    x = x.to(tl.float32)
    amax = _block_amax(amax_ptr, block, blocks, blocks_per_amax, ONE_AMAX)
    uniform = x
    if STOCHASTIC:
        uniform = uniforms(_at(start, blocks_per_row, 4, N // 4), tl.load(seed_ptr), T, N // 4)
    words, byte = quantize_blocks(x, amax, uniform, ERROR, TARGET, FULL, STOCHASTIC, ORDINARY, N)
    codes_ptr += _at(start, blocks_per_row, 2, N // 8)
    scales_ptr += _at(start, blocks_per_row, 1, HEIGHT)
    _store(words, byte, codes_ptr, scales_ptr, inside, HEIGHT)


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
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ONE_AMAX: tl.constexpr,
    HEIGHT: tl.constexpr,
    T: tl.constexpr,
):
    """T blocks of HEIGHT x 16 values; of extreme amaxes an eighth at a time, in few registers."""
    first = tl.program_id(0) * T
    amax = _block_amax(amax_ptr, first + tl.arange(0, T), blocks, blocks_per_amax, ONE_AMAX)
    if ERROR == "none" or is_ordinary(amax):
        _quantize_run(
            first, x_ptr, amax_ptr, seed_ptr, codes_ptr, scales_ptr, blocks, blocks_per_row,
            blocks_per_amax, ERROR, TARGET, FULL, STOCHASTIC, ONE_AMAX, HEIGHT, True, T,
        )  # fmt: skip
    else:
        for part in range(8):
            _quantize_run(
                first + part * (T // 8), x_ptr, amax_ptr, seed_ptr, codes_ptr, scales_ptr, blocks,
                blocks_per_row, blocks_per_amax, ERROR, TARGET, FULL, STOCHASTIC, ONE_AMAX, HEIGHT,
                False, T // 8,
            )  # fmt: skip


@triton.jit
def _line_blocks(at, first, second, TILE: tl.constexpr):
    """Of the blocks of a square, counted along its lines: the line, and the block in the line."""
    return first + at // (TILE // 16), second // 16 + at % (TILE // 16)


@triton.jit
def _load_across(x_ptr, rows, cols, first_row, first_col, TILE: tl.constexpr):
    """Blocks along the rows of a square, [T, 16]; zero outside."""
    row, block = _line_blocks(tl.arange(0, TILE * TILE // 16), first_row, first_col, TILE)
    inside = (row < rows) & (block * 16 < cols)
    return _load_along(x_ptr + (row.to(tl.int64) * cols + block * 16), inside, TILE * TILE // 16)


@triton.jit
def _load_down(x_ptr, rows, cols, first_row, first_col, TILE: tl.constexpr):
    """Blocks along the columns of a square, [T, 16]; zero outside."""
    col, block = _line_blocks(tl.arange(0, TILE * TILE // 16), first_col, first_row, TILE)
    inside = (col < cols) & (block * 16 < rows)
    start = x_ptr + (block.to(tl.int64) * 16 * cols + col)
    return _load_apart(start, inside, cols, TILE * TILE // 16)


@triton.jit
def _quantize_lines(
    x,
    first,
    second,
    lines,
    line_length,
    amax_ptr,
    seed_ptr,
    codes_ptr,
    scales_ptr,
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ORDINARY: tl.constexpr,
    TILE: tl.constexpr,
):
    """The blocks of a square that begins at line ``first``, place ``second``, of a matrix."""
    T: tl.constexpr = TILE * TILE // 16
    line, block = _line_blocks(tl.arange(0, T), first, second, TILE)
    inside = (line < lines) & (block * 16 < line_length)
    at = line.to(tl.int64) * (line_length // 16) + block
    amax = tl.load(amax_ptr + tl.arange(0, 1))
    uniform = x
    if STOCHASTIC:
        quad = at[:, None] * 4 + tl.arange(0, 4)[None, :]
        uniform = uniforms(quad, tl.load(seed_ptr), T, 4)
    words, byte = quantize_blocks(x, amax, uniform, ERROR, TARGET, FULL, STOCHASTIC, ORDINARY, 16)
    codes_ptr += at[:, None] * 2 + tl.arange(0, 2)[None, :]
    _store(words, byte, codes_ptr, scales_ptr + at[:, None], inside, 1)


@triton.jit
def _quantize_square(
    row,
    col,
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
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROTATED: tl.constexpr,
    ORDINARY: tl.constexpr,
    TILE: tl.constexpr,
):
    """A square of values along its rows and along its columns; the second time it is in a cache."""
    x = _load_across(x_ptr, rows, cols, row, col, TILE)
    _quantize_lines(
        x.to(tl.float32), row, col, rows, cols, amax_ptr, seeds_ptr, codes_ptr, scales_ptr,
        ERROR, TARGET, FULL, STOCHASTIC, ORDINARY, TILE,
    )  # fmt: skip
    x = _load_down(x_ptr, rows, cols, row, col, TILE)
    if ROTATED:
        x = _rotate(x)
    _quantize_lines(
        x.to(tl.float32), col, row, cols, rows, amax_t_ptr, seeds_ptr + 1, codes_t_ptr,
        scales_t_ptr, ERROR, TARGET, FULL, STOCHASTIC, ORDINARY, TILE,
    )  # fmt: skip


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
    ERROR: tl.constexpr,
    TARGET: tl.constexpr,
    FULL: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    ROTATED: tl.constexpr,
    TILE: tl.constexpr,
):
    """A square of TILE rows and columns; of extreme amaxes 16 at a time, in few registers."""
    row, col = tl.program_id(0) * TILE, tl.program_id(1) * TILE
    amax, amax_t = tl.load(amax_ptr + tl.arange(0, 1)), tl.load(amax_t_ptr + tl.arange(0, 1))
    if ERROR == "none" or (is_ordinary(amax) & is_ordinary(amax_t)):
        _quantize_square(
            row, col, x_ptr, amax_ptr, amax_t_ptr, seeds_ptr, codes_ptr, scales_ptr, codes_t_ptr,
            scales_t_ptr, rows, cols, ERROR, TARGET, FULL, STOCHASTIC, ROTATED, True, TILE,
        )  # fmt: skip
    else:
        for part in range((TILE // 16) * (TILE // 16)):
            _quantize_square(
                row + part // (TILE // 16) * 16, col + part % (TILE // 16) * 16, x_ptr, amax_ptr,
                amax_t_ptr, seeds_ptr, codes_ptr, scales_ptr, codes_t_ptr, scales_t_ptr, rows,
                cols, ERROR, TARGET, FULL, STOCHASTIC, ROTATED, False, 16,
            )  # fmt: skip


@triton.jit
def _rotate(x):
    """The Hadamard transform of blocks [T, 16], in float32; of bfloat16, rounded to it."""
    rotated = rotate_blocks(x.to(tl.float32), x.shape[0])
    if x.dtype == tl.bfloat16:
        rotated = rotated.to(tl.bfloat16).to(tl.float32)
    return rotated


@triton.jit
def _rotated_amax(x_ptr, bits_ptr, rows, cols, TILE: tl.constexpr):
    """The bits of the largest magnitude of the rotated transpose."""
    row, col = tl.program_id(0) * TILE, tl.program_id(1) * TILE
    rotated = _rotate(_load_down(x_ptr, rows, cols, row, col, TILE))
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
    per_program = BLOCKS_PER_PROGRAM // 2 if config.rule.adaptive else BLOCKS_PER_PROGRAM
    per_program = per_program if height == 1 else SQUARES_PER_PROGRAM
    _quantize[(triton.cdiv(blocks, per_program),)](
        x,
        amax,
        amax if seed is None else seed,
        codes.view(torch.int32),
        scales.view(torch.uint8),
        blocks,
        blocks_per_row,
        blocks // amax.numel(),
        **_rule(config),
        ONE_AMAX=amax.numel() == 1,
        HEIGHT=height,
        T=per_program,
        num_warps=2 if config.rule.adaptive else 4,
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
        codes.view(torch.int32),
        scales.view(torch.uint8),
        codes_t.view(torch.int32),
        scales_t.view(torch.uint8),
        rows,
        cols,
        **_rule(config),
        ROTATED=rotated,
        TILE=TILE,
        num_warps=8 if config.rule.adaptive else 4,  # two scales are tried: twice the registers
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
    """The constants of a config; ``arithmetic.py`` has a case for each error."""
    row = config.rule.row
    assert len(row.targets) == 1 or row.targets == (6.0, 4.0), "the kernels divide by 6 and by 4"
    return {
        "ERROR": "none" if row.error is None else row.error.value,
        "TARGET": config.rule.target,
        "FULL": config.full_scale,
        "STOCHASTIC": config.rounding == "stochastic",
    }
