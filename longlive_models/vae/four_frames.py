"""A 3 x 3 x 3 convolution of four frames at once, with half the products, for CPUs.

Three taps in time make four frames of six with six products each position rather than twelve
(Toom and Cook; Winograd's minimal filters)::

    y = A [(G w) * (B x)]        x [6 frames], w [3 taps], y [4 frames], * a 3 x 3 convolution

``A``, ``G`` and ``B`` come from evaluating polynomials at 0, 1, -1, 1/2, -2 and infinity. With
these points the result is about as exact as the plain sum: in float32 its error is at most twice as
large. In its last digits, and there alone, a frame may differ with the frames after it, three at
most.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_models.vae.streaming import Features, features, rows

FRAMES, TAPS = 4, 3
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
INPUTS = FRAMES + TAPS - 1
AT_ONCE = 1 << 19
"""How many numbers go through a convolution at once, as far as four frames have no more: those of
several calls are then in the CPU's cache."""


@cache
def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """``A`` [4, 6], ``G`` [6, 3] and ``B`` [6, 6] in float64.

    Rows of ``G`` and ``B`` are scaled by powers of two so that both are of like size.
    """
    count = INPUTS
    a, g, b = ([[0.0] * width for _ in range(height)] for height, width in _SIZES)
    for j, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        divisor = 1.0
        for other in others:
            divisor *= point - other
        for i in range(FRAMES):
            a[i][j] = point**i
        g[j] = [point**k / divisor for k in range(TAPS)]
        b[j] = [*_coefficients(others), 0.0]
    a[FRAMES - 1][count - 1] = g[count - 1][TAPS - 1] = 1.0
    b[count - 1] = _coefficients(POINTS)
    left, kernel, right = (torch.tensor(m, dtype=torch.float64, device="cpu") for m in (a, g, b))
    ratio = right.abs().sum(1) / kernel.abs().sum(1)
    scale = torch.exp2((ratio.log2() / 2).round())[:, None]
    return left, kernel * scale, right / scale


def convolve(x: Features, weight: Tensor, bias: Tensor) -> Features:
    """``conv3d(x, weight, bias, padding=(0, 1, 1))`` of 2 + 4 n frames, without gradients."""
    left, kernel, right = (m.to(x.dtype) for m in matrices())
    taps = torch.einsum("kt,oityx->koyxi", kernel, weight).contiguous().permute(0, 1, 4, 2, 3)
    batch, channels, frames, height, width = x.shape
    out, groups = len(weight), (frames - (TAPS - 1)) // FRAMES
    result = x.new_empty(batch, groups * FRAMES, height, width, out)
    at_once = max(1, AT_ONCE // (height * width * channels))
    mixed = x.new_empty(INPUTS, min(groups, at_once), height, width, channels)
    products = x.new_empty(INPUTS, min(groups, at_once), height, width, out)
    for sample, made in zip(rows(x), result, strict=True):
        for start in range(0, groups, at_once):
            count = min(at_once, groups - start)
            for i in range(count):
                first = (start + i) * FRAMES
                seen = sample[first : first + INPUTS].reshape(INPUTS, -1)
                torch.mm(right, seen, out=mixed[:, i].view(INPUTS, -1))
            for k, tap in enumerate(taps):
                some = mixed[k, :count].permute(0, 3, 1, 2)
                products[k, :count] = F.conv2d(some, tap, padding=1).permute(0, 2, 3, 1)
            for i in range(count):
                first = (start + i) * FRAMES
                target = made[first : first + FRAMES].view(FRAMES, -1)
                torch.mm(left, products[:, i].view(INPUTS, -1), out=target)
    return features(result.add_(bias))


_SIZES = ((FRAMES, INPUTS), (INPUTS, TAPS), (INPUTS, INPUTS))


def _coefficients(roots: "tuple[float, ...] | list[float]") -> list[float]:
    """The coefficients of the polynomial with these roots and 1 at its end, constant one first."""
    found = [1.0]
    for root in roots:
        shifted, scaled = [0.0, *found], [*(-root * c for c in found), 0.0]
        found = [one + other for one, other in zip(shifted, scaled, strict=True)]
    return found
