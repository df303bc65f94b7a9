"""Rounding to E2M1 and to E4M3, and the random bits of stochastic rounding."""

import torch
from jaxtyping import Float, Float8e4m3fn, Int64, UInt8
from torch import Tensor

from longlive_core.noise import philox4x32
from longlive_core.nvfp4.format import E2M1_MAX, E2M1_VALUES, E4M3_MAX

UNIFORM_BITS = 24  # of each random word: what float32 holds exactly


def to_e4m3(x: Float[Tensor, "*shape"]) -> Float8e4m3fn[Tensor, "*shape"]:
    """Round non-negative numbers to E4M3, ties to even; above 448 gives 448, NaN stays NaN."""
    return x.clamp(max=E4M3_MAX).to(torch.float8_e4m3fn)  # some casts give NaN above 464


def round_nearest(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The E2M1 code nearest to each number; a tie takes the even code, beyond 6 is 6, NaN is 0.

    The magnitude code counts the midpoints that lie below, 0.25 to 5.0. Where the code below a
    midpoint is odd, the midpoint itself rounds up. Negative numbers that round to zero give the
    code of -0 (8), zeros of either sign give 0.
    """
    y = x.abs()
    steps = (y > 0.25, y >= 0.75, y > 1.25, y >= 1.75, y > 2.5, y >= 3.5, y > 5.0)
    magnitude = torch.stack(steps).sum(0, dtype=torch.uint8)
    return with_sign(magnitude, x)


def round_stochastic(
    x: Float[Tensor, "*shape"], uniform: Float[Tensor, "*shape"]
) -> UInt8[Tensor, "*shape"]:
    """Round up with the probability that leaves the mean where it is; beyond 6 is 6, NaN is 0.

    ``uniform`` in [0, 1) decides: up where it lies below the distance from the lower neighbour, in
    steps. With multiples of 2**-24 the mean is off by less than 2**-24 of a step.
    """
    y = x.abs().clamp(max=E2M1_MAX)
    floors = torch.stack([y >= value for value in E2M1_VALUES[1:]]).sum(0, dtype=torch.uint8)
    step = torch.where(y < 2.0, 0.5, torch.where(y < 4.0, 1.0, 2.0))
    fraction = (y - decode_e2m1(floors)) * (1.0 / step)  # exact: steps are powers of two
    return with_sign(floors + (uniform < fraction).to(torch.uint8), x)


def with_sign(
    magnitude: UInt8[Tensor, "*shape"], x: Float[Tensor, "*shape"]
) -> UInt8[Tensor, "*shape"]:
    """Set bit 3 of the codes where ``x`` is below zero."""
    return magnitude | ((x < 0).to(torch.uint8) << 3)


def decode_e2m1(codes: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The numbers that codes 0 to 15 stand for, float32; 8 is -0."""
    negatives = [-value for value in E2M1_VALUES]
    values = torch.tensor([*E2M1_VALUES, *negatives], device=codes.device)
    return values[codes.long()]


def random_uniform(seed: Int64[Tensor, ""], count: int) -> Float[Tensor, " count"]:
    """``count`` numbers in [0, 1), multiples of 2**-24, as a function of seed and index alone.

    Number ``i`` is word ``i % 4`` of Philox4x32-10 with counter (i // 4, seed low, seed high, 0)
    and key 0. ``count`` is at most 2**34.
    """
    quads = torch.arange(-(-count // 4), device=seed.device)
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    counter = (quads, low.expand_as(quads), high.expand_as(quads), torch.zeros_like(quads))
    words = torch.stack(philox4x32(counter, (0, 0)), dim=-1).flatten()[:count]
    return (words >> (32 - UNIFORM_BITS)).float() * 2.0**-UNIFORM_BITS
