"""Device functions: statistics of rows by sums of integers; ``fused.statistics`` has the meaning.

Rows of the tile hold zeros beyond their end.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton  # noqa: TID253 - its home
import triton.language as tl  # noqa: TID253

from longlive_core.eight_bit.kernels.encode_byte_rows import TINY, divided, e4m3_code, size_of
from longlive_core.fused import statistics

BITS = tl.constexpr(statistics.BITS)
LOWEST = tl.constexpr(statistics.LOWEST)
ROUNDS = tl.constexpr(12582912.0)  # 1.5 * 2**23, where float32's step is 1
ROUNDS_BITS = tl.constexpr(0x4B400000)


@triton.jit
def _integers(x):
    """The rows as whole numbers of 2**-shift, in int64; and ``shift``, and float32's exponent."""
    exponent = tl.max(size_of(x), axis=1) >> 23
    shift = (BITS + 126) - tl.maximum(exponent, LOWEST)
    step = ((shift + 127) << 23).to(tl.float32, bitcast=True)
    whole = (x * step[:, None] + ROUNDS).to(tl.int32, bitcast=True) - ROUNDS_BITS
    return whole.to(tl.int64), shift, exponent


@triton.jit
def _reciprocal_root(square, unit, exponent, EPS: tl.constexpr):
    root = tl.sqrt(square * unit * unit + tl.full(square.shape, EPS, tl.float64))
    inverse = (tl.full(root.shape, 1.0, tl.float64) / root).to(tl.float32)
    return tl.where(exponent == 255, float("nan"), inverse)


@triton.jit
def layer_statistics(x, D: tl.constexpr, EPS: tl.constexpr):
    whole, shift, exponent = _integers(x)
    unit = ((1023 - shift).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    count = tl.full(unit.shape, D, tl.float64)
    mean = tl.sum(whole, axis=1).to(tl.float64) / count
    square = tl.sum(whole * whole, axis=1).to(tl.float64) / count
    variance = square - mean * mean
    variance = tl.where(variance > 0.0, variance, tl.zeros(variance.shape, tl.float64))
    return (mean * unit).to(tl.float32), _reciprocal_root(variance, unit, exponent, EPS)


@triton.jit
def rms_statistic(x, D: tl.constexpr, EPS: tl.constexpr):
    whole, shift, exponent = _integers(x)
    unit = ((1023 - shift).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    square = tl.sum(whole * whole, axis=1).to(tl.float64) / tl.full(unit.shape, D, tl.float64)
    return _reciprocal_root(square, unit, exponent, EPS)


@triton.jit
def rounded(x, NATIVE: tl.constexpr):
    """Float32 rounded to bfloat16, ties to even; Triton's interpreter would cut the bits off."""
    if NATIVE:
        return x.to(tl.bfloat16)
    bits = x.to(tl.int32, bitcast=True)
    even = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x == x, even.to(tl.float32, bitcast=True), x).to(tl.bfloat16)


@triton.jit
def encoded(x, LARGEST: tl.constexpr, CONVERTS: tl.constexpr, DIVIDES: tl.constexpr):
    """Codes and scales of rows of bfloat16s, as ``encode_rows`` has them if it ``DIVIDES``.

    Else numbers are multiplied by their scale's reciprocal, which is faster, and puts one in some
    thousands that lies between two codes to the other of them.
    """
    amax = tl.max(size_of(x), axis=1).to(tl.float32, bitcast=True)
    scale = tl.div_rn(amax, tl.full(amax.shape, LARGEST, tl.float32))
    scale = tl.where(scale < TINY, TINY, scale)
    if DIVIDES:
        y = divided(x, scale, CONVERTS)
    else:
        y = x * tl.div_rn(tl.full(scale.shape, 1.0, tl.float32), scale)[:, None]
    return e4m3_code(y, CONVERTS), scale
