"""How a block's scale follows from its values: float32, in an order of operations that is fixed.

With A the tensor's largest magnitude, a the block's, R = target * bound the rule's full scale:

    encode scale  S  = min(R / A, FLT_MAX); 1 where A = 0
    AMAX_n        s  = E4M3(a * (S * (1 / n)))
    four-over-six s6 = E4M3((a / 6) * S),  s4 = E4M3((a / 6) * S * 1.5)
                  error of a value x coded as q:  ((q * s) * A) / R - x
                  s4 if its error is strictly smaller, else s6

Scales saturate at 448. The error is a division, not a product with 1 / R, and a block's errors are
added in one order (``ordered_sum``): where both scales are nearly as good, either decides. Squares
that leave float32 compare as equal, which keeps s6. The first formula is Transformer Engine's
(``NVFP4BlockScaling``), the second also that of the original LongLive-2.0 (arXiv 2605.18739), whose
order of addition it takes.
"""

from typing import assert_never

import torch
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from longlive_core.nvfp4.format import BlockError, QuantizeConfig
from longlive_core.nvfp4.rounding import nearest_magnitude, to_e4m3

FLOAT32_MAX = torch.finfo(torch.float32).max

Blocks = Float[Tensor, "block_rows block_cols elements"]
PerBlock = Float[Tensor, "block_rows block_cols"]
PerRow = Float[Tensor, "block_rows 1"]


def divide(
    numerator: Float[Tensor, "..."] | float, denominator: Float[Tensor, "..."] | float
) -> Float[Tensor, "..."]:
    """A true division, rounded once; one of the two is a tensor, or both broadcast.

    PyTorch multiplies by the reciprocal where it can: for ``number / tensor``, and on CUDA for
    ``tensor / number``. That may be off by one in the last place.
    """
    tensor = numerator if isinstance(numerator, Tensor) else denominator
    assert isinstance(tensor, Tensor)
    a, b = (
        value if isinstance(value, Tensor) else tensor.new_full((), value)
        for value in (numerator, denominator)
    )
    return torch.div(a, b)


def encode_scale(amax: Float[Tensor, "*shape"], config: QuantizeConfig) -> Float[Tensor, "*shape"]:
    """S: what a tensor is multiplied by before its block scales divide it."""
    scale = divide(config.full_scale, amax).clamp(max=FLOAT32_MAX)
    return torch.where(amax == 0, 1.0, scale)


def decode_scale(amax: Float[Tensor, "*shape"], config: QuantizeConfig) -> Float[Tensor, "*shape"]:
    """A / R: what code times block scale is multiplied by to read a value back."""
    return amax * (1.0 / config.full_scale)


def block_scales(
    blocks: Blocks, amax: PerRow, config: QuantizeConfig
) -> Float8e4m3fn[Tensor, "block_rows block_cols"]:
    """The scale of every block under ``config.rule``."""
    block_amax = blocks.abs().amax(-1)
    scale = encode_scale(amax, config)
    row = config.rule.row
    if row.error is None:
        return to_e4m3(block_amax * (scale * (1.0 / config.rule.target)))
    six, four = row.targets
    base = divide(block_amax, six) * scale
    for_six, for_four = to_e4m3(base), to_e4m3(base * (six / four))
    error_six = block_error(blocks, for_six, amax, config)
    error_four = block_error(blocks, for_four, amax, config)
    chosen = torch.where(error_four < error_six, for_four.float(), for_six.float())
    return chosen.to(torch.float8_e4m3fn)


def encode_factor(
    scales: Float8e4m3fn[Tensor, "block_rows block_cols"], amax: PerRow, config: QuantizeConfig
) -> PerBlock:
    """What a block is multiplied by to lie on the E2M1 grid: min(1 / (s * (1 / S)), FLT_MAX)."""
    step = scales.float() * divide(1.0, encode_scale(amax, config))
    return divide(1.0, step).clamp(max=FLOAT32_MAX)


def block_error(
    blocks: Blocks,
    scales: Float8e4m3fn[Tensor, "block_rows block_cols"],
    amax: PerRow,
    config: QuantizeConfig,
) -> PerBlock:
    """The error that rounding to the nearest code leaves in each block, by the rule's measure.

    Sums stand for means: blocks have equal sizes. The rule must be an adaptive one.
    """
    rounded = nearest_magnitude(blocks * encode_factor(scales, amax, config)[..., None])
    products = rounded * scales.float()[..., None]
    error = divide(products * amax[..., None], config.full_scale) - blocks.abs()
    measure = config.rule.row.error
    assert measure is not None, f"{config.rule} has one scale for a block and measures no errors"
    match measure:
        case BlockError.MEAN_SQUARED:
            return ordered_sum(error * error)
        case BlockError.MEAN_ABSOLUTE:
            return ordered_sum(error.abs())
        case BlockError.LARGEST_ABSOLUTE:
            return error.abs().amax(-1)
        case _:
            assert_never(measure)


def ordered_sum(
    errors: Float[Tensor, "block_rows block_cols elements"],
) -> Float[Tensor, "block_rows block_cols"]:
    """The sum of a block's 16 or 256 errors, in the order of a processor with vectors of eight.

    A block of 16 is two vectors, which are added; a block of 256 is 32, added to four sums in turn,
    which are then added one after another. Last, so are the eight places of what is left. PyTorch
    on a CPU with AVX2 adds so, and with it the original's reference.
    """
    sums = 1 if errors.shape[-1] == 16 else 4
    vectors = errors.unflatten(-1, (-1, sums, 8))
    return _one_after_another(_one_after_another(_one_after_another(vectors, -3), -2), -1)


def _one_after_another(x: Tensor, dim: int) -> Tensor:
    total, *rest = x.unbind(dim)
    for term in rest:
        total = total + term
    return total
