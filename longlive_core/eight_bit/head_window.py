"""A window of keys or values in E4M3, of which most stays the same from call to call.

Attention reads a window again and again while a block is made, and only the block's own tokens,
which stand last, change in between. So the others are encoded once. All tokens of a sample and head
share a scale, as attention kernels of eight bits want it. It is a power of two with room to grow::

    scale = the smallest power of two with amax <= 224 * scale, at least 2 ** -126
    code  = x / scale, to nearest, ties to even, in float32

E4M3 is a floating format, so that room costs it nothing but range. Own tokens that come later keep
the scale while none is beyond 448 * scale. If one is, the head's scale is made anew from them, and
the codes of the others are divided by what it grew by: a power of two, which leaves all of them as
they are but the very smallest, below 2 ** -6. A kernel decides so on the device, without the host.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float8e4m3fn, Float32
from torch import Tensor

from longlive_core.backends import Backend, Operation, Request, needs_triton
from longlive_core.eight_bit.format import LARGEST

_LARGEST = LARGEST[torch.float8_e4m3fn]

Part = Float[Tensor, "batch _ heads head_dim"]


class EncodedHeads(NamedTuple):
    """Heads in E4M3, with a scale for each sample and head: a number is ``code * scale``."""

    codes: Float8e4m3fn[Tensor, "batch tokens heads head_dim"]
    scales: Float32[Tensor, "batch heads"]


def encode_window(
    codes: Float8e4m3fn[Tensor, "batch tokens heads head_dim"],
    own: Float[Tensor, "batch own_tokens heads head_dim"],
    past: Sequence[Part],
    scales: Float32[Tensor, "batch heads"] | None,
    *,
    backend: str = "auto",
) -> EncodedHeads:
    """Bring a window up to date, in place; no gradient.

    The first time ``scales`` are None, and ``past``, whose parts fill the window up to its own
    tokens, is encoded with them. Later ``scales`` are those that the last call gave, and ``past``
    is not looked at: its codes are there. ``backend`` is a name of the table ``ENCODE_WINDOW`` or
    "auto". Raises ``BackendUnavailable`` for a backend that cannot run.
    """
    run = _implementation(own.device, own.dtype, backend)
    return EncodedHeads(codes, run(codes, own.detach(), past, scales))


def fitting_scales(amax: Float32[Tensor, "*heads"]) -> Float32[Tensor, "*heads"]:
    """The smallest powers of two that bring these magnitudes to 224 or less; NaN if not finite."""
    bits = amax.view(torch.int32)
    exponents = (bits >> 23) - 7 + ((bits & 0x7FFFFF) > 0x600000)  # 224 is 1.75 * 2**7
    scales = (exponents.clamp_min(1) << 23).view(torch.float32)
    return torch.where(amax.isfinite(), scales, torch.nan)


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return ENCODE_WINDOW.select(Request(device=device, dtype=dtype), backend)


def _triton(codes: Tensor, own: Tensor, past: Sequence[Tensor], scales: Tensor | None) -> Tensor:
    from longlive_core.eight_bit.kernels import encode_window

    with torch.cuda.device(own.device):
        return encode_window.encode_window(codes, own, past, scales)


def _reference(codes: Tensor, own: Tensor, past: Sequence[Tensor], scales: Tensor | None) -> Tensor:
    largest = _amax(own)
    before, last = codes.split((codes.shape[1] - own.shape[1], own.shape[1]), 1)
    if scales is None:
        for part in past:
            largest = torch.maximum(largest, _amax(part))
        new = fitting_scales(largest)
        if past:
            _put(before, torch.cat([part.float() for part in past], 1), new)
    else:
        new = torch.where(largest <= _LARGEST * scales, scales, fitting_scales(largest))
        _put(before, before.float(), new / scales)
    _put(last, own.float(), new)
    return new


def _amax(x: Tensor) -> Tensor:
    return x.abs().amax((1, 3)).float()


def _put(codes: Tensor, numbers: Tensor, scales: Tensor) -> None:
    wide = (numbers / scales[:, None, :, None]).clamp(-_LARGEST, _LARGEST)
    codes.copy_(wide.to(torch.float8_e4m3fn))


ENCODE_WINDOW = Operation(
    "encode_window",
    (
        Backend(name="triton", run=_triton, why_not=needs_triton),
        Backend(name="reference", run=_reference),
    ),
)
