"""What the decoder does between its convolutions, each as one pass: the meaning, and what runs it.

``norm_silu_pad`` is what stands before a causal convolution::

    s = x + bias + shortcut                       the value of the layer before, where it has these
    y = silu(s * (sqrt(channels) / |s|) * gamma)
    padded = the past frames, then y              what the convolution reads
    kept = the last frames of padded              what the next call has as its past

``join_phases`` is what stands after an upsampling's convolution, whose four groups of channels are
the four pixels that each position becomes: they are put in their places, the bias is added, then
the stage's shortcut (``layers.add_repeated``).

A result is rounded to the type of ``x`` wherever the plain operations store one. ``|s|`` is a sum
of squares in float32 in a fixed order: neighboring channels are added, then neighboring sums. So
every backend gives the same bits, with one exponential excepted: a CPU's differs from a GPU's in
its last digit.
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Backend, Operation, all_of, needs_dtype, needs_triton
from longlive_models.vae.layers import add_repeated
from longlive_models.vae.streaming import Rows, features, rows

Channels = Float[Tensor, " channels"]
WIDEST = 8192
"""The most channels of a position that a kernel takes."""


@runtime_checkable
class NormSiluPad(Protocol):
    """A backend of ``NORM_SILU_PAD``."""

    def __call__(
        self,
        x: Rows,
        gamma: Channels,
        past: Rows,
        *,
        bias: Channels | None,
        shortcut: Rows | None,
        keep: bool,
    ) -> tuple[Rows, Rows, Rows | None]:
        """The sum, ``padded``, and ``kept`` if asked for.

        The sum is valid only where there is a shortcut; then it may have been written over ``x``,
        which is not to be read again. The channels of a position of ``past`` lie beside each other,
        its other strides are free; all other tensors are contiguous.
        """


@runtime_checkable
class JoinPhases(Protocol):
    """A backend of ``JOIN_PHASES``."""

    def __call__(self, phases: Rows, bias: Channels, start: Rows) -> Rows:
        """Frames of twice the height and width.

        Args:
            phases: [batch, frames, height + 1, width + 1, 4 channels], of ``Upsample.phases``.
            bias: of the convolution.
            start: what the stage began with, as ``layers.add_repeated`` takes it.
        """


def _sum_of_pairs(x: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows 1"]:
    levels = max(1, (x.shape[-1] - 1).bit_length())
    x = F.pad(x, (0, (1 << levels) - x.shape[-1]))
    for _ in range(levels):
        x = x[..., 0::2] + x[..., 1::2]
    return x


def _plain_norm_silu_pad(
    x: Rows,
    gamma: Channels,
    past: Rows,
    *,
    bias: Channels | None,
    shortcut: Rows | None,
    keep: bool,
) -> tuple[Rows, Rows, Rows | None]:
    if bias is not None:
        x = x + bias
    if shortcut is not None:
        x = x + shortcut
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = _sum_of_pairs(wide * wide).sqrt()
    inverse = length.clamp_min(1e-12).reciprocal() * x.shape[-1] ** 0.5
    y = F.silu(x * inverse.to(x.dtype) * gamma)
    padded = torch.cat([past.to(x.dtype), y], 1)
    return x, padded, padded[:, -past.shape[1] :].clone() if keep else None


def _plain_join_phases(phases: Rows, bias: Channels, start: Rows) -> Rows:
    b, t, tall, wide, _ = phases.shape
    h, w = tall - 1, wide - 1
    four = phases.unflatten(-1, (2, 2, -1))
    parts = [
        four[:, :, row : row + h, column : column + w, row, column]
        for row in (0, 1)
        for column in (0, 1)
    ]
    joined = torch.stack(parts, -2).unflatten(-2, (2, 2)).permute(0, 1, 2, 4, 3, 5, 6)
    x = joined.reshape(b, t, 2 * h, 2 * w, -1) + bias
    time = t // start.shape[1]
    return rows(add_repeated(features(x), features(start), time=time, first=False))


def _triton_norm_silu_pad(
    x: Rows,
    gamma: Channels,
    past: Rows,
    *,
    bias: Channels | None,
    shortcut: Rows | None,
    keep: bool,
) -> tuple[Rows, Rows, Rows | None]:
    from longlive_models.vae.kernels.norm_silu_pad import norm_silu_pad

    with torch.cuda.device(x.device):
        return norm_silu_pad(x, gamma, past, bias=bias, shortcut=shortcut, keep=keep)


def _triton_join_phases(phases: Rows, bias: Channels, start: Rows) -> Rows:
    from longlive_models.vae.kernels.join_phases import join_phases

    with torch.cuda.device(phases.device):
        return join_phases(phases, bias, start)


_COMPILED = all_of(needs_triton, needs_dtype(torch.float32, torch.bfloat16, torch.float16))

NORM_SILU_PAD = Operation(
    "vae.norm_silu_pad",
    (
        Backend(name="triton", run=_triton_norm_silu_pad, why_not=_COMPILED),
        Backend(name="reference", run=_plain_norm_silu_pad),
    ),
)
JOIN_PHASES = Operation(
    "vae.join_phases",
    (
        Backend(name="triton", run=_triton_join_phases, why_not=_COMPILED),
        Backend(name="reference", run=_plain_join_phases),
    ),
)
