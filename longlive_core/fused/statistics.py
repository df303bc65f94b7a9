"""Means and variances of rows whose sums do not depend on their order.

A row is scaled by a power of two so that its largest magnitude lies in [2**19, 2**20), and rounded
to whole numbers. These are summed, and their squares, in 64-bit integers: exactly, so every order
gives the same bits, on every device and in every kernel. What is left is float64, one operation
after another::

    m = S / n      v = max(Q / n - m * m, 0)      rstd = 1 / sqrt(v * unit * unit + eps)

and both results are rounded once to float32. Of a row in bfloat16 all numbers above 2**-12 of the
largest are whole as they are; the error is that of float32's statistics or less. A row that holds
a NaN or an infinity is normalized to NaN as a whole.
"""

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

BITS = 20
"""The largest magnitude of a row becomes a whole number of so many bits."""

LOWEST = 64
"""The smallest exponent (float32's, with its bias) that a row's largest magnitude is taken to have.
Smaller rows, below 2**-63, keep fewer bits, in the end none: beside ``eps`` they count for nothing
anyway."""

Statistic = Float32[Tensor, "*rows 1"]


def layer_statistics(x: Float[Tensor, "*rows dim"], eps: float) -> tuple[Statistic, Statistic]:
    """The mean of each row, and the reciprocal of its standard deviation."""
    whole, shift, finite = _integers(x)
    unit = torch.exp2(-shift.double())
    mean = whole.sum(-1, keepdim=True).double() / x.shape[-1]
    square = (whole * whole).sum(-1, keepdim=True).double() / x.shape[-1]
    variance = (square - mean * mean).clamp_min(0.0)
    return (mean * unit).float(), _reciprocal_root(variance, unit, eps, finite)


def rms_statistic(x: Float[Tensor, "*rows dim"], eps: float) -> Statistic:
    """The reciprocal of each row's root of the mean square."""
    whole, shift, finite = _integers(x)
    square = (whole * whole).sum(-1, keepdim=True).double() / x.shape[-1]
    return _reciprocal_root(square, torch.exp2(-shift.double()), eps, finite)


def _integers(
    x: Float[Tensor, "*rows dim"],
) -> tuple[Int64[Tensor, "*rows dim"], Int32[Tensor, "*rows 1"], Tensor]:
    """The row as whole numbers of ``2 ** -shift``, ``shift``, and which rows are finite."""
    wide = x.float().contiguous()
    largest = wide.view(torch.int32).bitwise_and(0x7FFFFFFF).amax(-1, keepdim=True)
    exponent = largest >> 23
    shift = BITS + 126 - exponent.clamp_min(LOWEST)
    finite = exponent < 255
    scaled = torch.where(finite, wide * torch.exp2(shift.float()), 0.0)
    return scaled.round().long(), shift, finite


def _reciprocal_root(square: Tensor, unit: Tensor, eps: float, finite: Tensor) -> Statistic:
    root = torch.sqrt(square * unit * unit + eps)
    return torch.where(finite, torch.ones_like(root) / root, torch.nan).float()
