"""Heads of queries, keys or values in E4M3, with a scale for each sample and head.

Attention kernels of eight bits take one scale a head. A number is read back as ``code * scale``,
and the scale makes the head's largest magnitude over all tokens E4M3's largest::

    scale = max(amax / 448, 2 ** -126)        code = (x - mean) * (1 / scale), ties to even

In float32, whatever float type the numbers are in. ``mean`` is there for keys alone: softmax does
not see what all keys have in common, and what is left of them is rounded in finer steps.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Float8e4m3fn, Float32
from torch import Tensor

from longlive_core.backends import Backend, Operation, Request, needs_triton
from longlive_core.eight_bit.format import LARGEST

_LARGEST = LARGEST[torch.float8_e4m3fn]

Encoded = tuple[Float8e4m3fn[Tensor, "batch tokens heads head_dim"], Float32[Tensor, "batch heads"]]


def encode_heads(
    x: Float[Tensor, "batch tokens heads head_dim"],
    mean: Float32[Tensor, "batch heads head_dim"] | None = None,
    *,
    backend: str = "auto",
) -> Encoded:
    """Codes and scales; ``mean`` is subtracted first. No gradient.

    ``backend`` is a name of the table ``ENCODE_HEADS`` or "auto". Raises ``BackendUnavailable``
    for a backend that cannot run.
    """
    return _implementation(x.device, x.dtype, backend)(x.detach(), mean)


def decode_heads(
    codes: Float8e4m3fn[Tensor, "batch tokens heads head_dim"],
    scales: Float32[Tensor, "batch heads"],
) -> Float32[Tensor, "batch tokens heads head_dim"]:
    """The numbers that codes stand for; a mean that was subtracted is not added again."""
    return codes.float() * scales[:, None, :, None]


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return ENCODE_HEADS.select(Request(device=device, dtype=dtype), backend)


def _triton(x: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    from longlive_core.eight_bit.kernels import encode_heads

    with torch.cuda.device(x.device):
        return encode_heads.encode_heads(x, mean)


def _reference(x: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = x.float() if mean is None else x.float() - mean[:, None]
    amax = wide.abs().amax((1, 3))
    scales = amax / amax.new_full((), _LARGEST)  # CUDA multiplies by a number's reciprocal
    scales = scales.clamp_min(torch.finfo(torch.float32).tiny)
    inverse = torch.ones_like(scales) / scales
    codes = (wide * inverse[:, None, :, None]).clamp(-_LARGEST, _LARGEST)
    return codes.to(torch.float8_e4m3fn), scales


ENCODE_HEADS = Operation(
    "encode_heads",
    (
        Backend(name="triton", run=_triton, why_not=needs_triton),
        Backend(name="reference", run=_reference),
    ),
)
