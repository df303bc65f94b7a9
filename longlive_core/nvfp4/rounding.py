"""Rounding to E2M1 and to E4M3, and the random numbers of stochastic rounding."""

import torch
from jaxtyping import Float8e4m3fn, Float32, Int64, UInt8
from torch import Tensor

from longlive_core.noise import philox4x32
from longlive_core.nvfp4.format import E2M1_MAX, E2M1_VALUES, E4M3_MAX

UNIFORM_BITS = 24  # of each random word: what float32 holds exactly


def to_e4m3(x: Float32[Tensor, "*shape"]) -> Float8e4m3fn[Tensor, "*shape"]:
    """Round non-negative numbers to E4M3, ties to even; above 448 gives 448, NaN stays NaN."""
    return x.clamp(max=E4M3_MAX).to(torch.float8_e4m3fn)  # some casts give NaN above 464


def nearest_magnitude(x: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """The E2M1 magnitude nearest to each number's; ties take the even code; beyond 6 is 6.

    The grid has steps of 0.5 below 2, of 1 below 4, of 2 below 6. Counted in steps, an even number
    is an even code, and ``torch.round`` takes ties to even: 0.25 -> 0, 0.75 -> 1, 2.5 -> 2, 5 -> 4.
    """
    y = x.abs().clamp(max=E2M1_MAX)
    step = _step(y)
    return torch.round(y / step) * step


def round_nearest(x: Float32[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The E2M1 code nearest to each number; ties take the even code, beyond 6 is 6, NaN is 0.

    Negative numbers that round to zero give the code of -0 (8); zeros of either sign give 0.
    """
    return _encode(nearest_magnitude(x), x)


def round_stochastic(
    x: Float32[Tensor, "*shape"], uniform: Float32[Tensor, "*shape"]
) -> UInt8[Tensor, "*shape"]:
    """Round up with the probability that leaves the mean where it is; beyond 6 is 6, NaN is 0.

    ``uniform`` in [0, 1) decides: up where it lies below the distance from the lower neighbor, in
    steps. With multiples of 2**-24 the mean is off by less than 2**-24 of a step up to 6; of what
    lies beyond, the mean is 6, too small.
    """
    y = x.abs().clamp(max=E2M1_MAX)
    step = _step(y)
    lower = torch.floor(y / step)
    up = uniform < y / step - lower  # exact: a step is a power of two
    return _encode((lower + up) * step, x)


def decode_e2m1(codes: UInt8[Tensor, "rows bytes"]) -> Float32[Tensor, "rows cols"]:
    """The numbers that packed codes stand for, two a byte, the low nibble first; 8 is -0."""
    signed = [*E2M1_VALUES, *(-value for value in E2M1_VALUES)]
    values = torch.tensor(signed, dtype=torch.float32, device=codes.device)
    pairs = torch.stack((values.repeat(16), values.repeat_interleave(16)), dim=-1)
    # a pair looked up as one integer: many times faster on a CPU than indexing rows
    found = pairs.view(torch.int64).flatten().index_select(0, codes.flatten().int())
    return found.view(torch.float32).view(codes.shape[0], 2 * codes.shape[1])


def random_uniform(seed: Int64[Tensor, ""], count: int) -> Float32[Tensor, " count"]:
    """``count`` numbers in [0, 1), multiples of 2**-24, as a function of seed and index alone.

    Number ``i`` is from word ``i % 4`` of Philox4x32-10 with counter (i // 4, seed's low word, its
    high word, 0) and key 0: its upper 24 bits. ``count`` is at most 2**34.
    """
    quads = torch.arange(-(-count // 4), dtype=torch.int64, device=seed.device)
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    counter = (quads, low.expand_as(quads), high.expand_as(quads), torch.zeros_like(quads))
    words = torch.stack(philox4x32(counter, (0, 0)), dim=-1).flatten()[:count]
    return (words >> (32 - UNIFORM_BITS)).float() * 2.0**-UNIFORM_BITS


def _step(y: Tensor) -> Tensor:
    """The distance of neighbors on the grid above each magnitude up to 6: 0.5, 1 or 2.

    Half the power of two below the magnitude, or below 1: its float32 without the mantissa.
    """
    power = (y.clamp(min=1.0).view(torch.int32) & 0x7F800000).view(torch.float32)
    return power * 0.5


def _encode(magnitude: Tensor, x: Tensor) -> Tensor:
    """The code of a magnitude on the grid, with bit 3 set where ``x`` is below zero."""
    code = magnitude * 2 - (magnitude - 2).clamp(min=0) - (magnitude - 4).clamp(min=0) / 2
    return (code + 8.0 * (x < 0)).nan_to_num(nan=0.0).to(torch.uint8)
