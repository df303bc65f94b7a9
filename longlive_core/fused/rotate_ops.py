"""Norm over all heads and rotation of queries or keys, in one pass.

With ``x`` [batch, tokens, heads * head_dim], and for each pair of channels of a head a cosine and a
sine of its token::

    n = T((x * rstd) * weight)
    (a, b) <- T(a * cos - b * sin), T(b * cos + a * sin)        of each pair of n

``T`` rounds to the type of ``x``; everything else is float32, an operation at a time, products
before sums. ``rstd`` is that of ``statistics.py``. Without a weight there is no norm, without
angles no rotation.

========= ========================================================================================
triton    One kernel, for inference in bfloat16; the bits of "reference".
reference The lines above, one after another; the same bits on every device.
torch     torch's own norm, whose sums have another order, with gradients and for every type:
          training, CPUs, compiled models.
========= ========================================================================================
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Backend, Operation
from longlive_core.fused.choice import asked, needs_fused, needs_written_out, select, slower
from longlive_core.fused.statistics import rms_statistic

Angles = tuple[
    Float[Tensor, "samples tokens 1 pairs 1"],  # cosines
    Float[Tensor, "samples tokens 1 pairs 2"],  # minus the sine, and the sine
]
Heads = Float[Tensor, "batch tokens heads head_dim"]


def rotate_heads(
    x: Float[Tensor, "batch tokens dim"],
    heads: int,
    *,
    weight: Float[Tensor, " dim"] | None = None,
    eps: float | None = None,
    angles: Angles | None = None,
    out: Heads | None = None,
    backend: str = "auto",
) -> Heads:
    """Normalize over all heads, then rotate.

    Args:
        x: queries or keys.
        heads: how many heads a row has.
        weight: of the norm over all heads; None for no norm.
        eps: is added to the mean square; None for the type's own smallest step.
        angles: cosines and sines, of as many samples as ``x`` or of one for all; None for none.
        out: where the result is written, without gradients; tokens lie in one run.
        backend: a name of the table ``ROTATE``, or "auto".

    Returns:
        [batch, tokens, heads, head_dim], ``out`` if given.

    Raises:
        BackendUnavailable: the backend that was named cannot run.
    """
    run = _implementation(*asked(ROTATE, backend, x, weight))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return run(x, heads, weight, eps, angles, out)


def turn(x: Heads, angles: Angles) -> Heads:
    """Rotate pairs of channels by their tokens' angles, as torch does; of the type of ``x``.

    On a CPU pairs are complex numbers: one product of them, which is read and written once, takes a
    tenth of the time. A compiled one has other last digits.
    """
    cos, sin = angles
    pairs = x.unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        factors = torch.complex(cos[..., 0], sin[..., 1])
        turned = torch.view_as_complex(pairs.to(cos.dtype).contiguous()) * factors
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)
    return torch.addcmul(pairs * cos, pairs.flip(-1), sin).flatten(-2).to(x.dtype)


@functools.cache
def _implementation(
    device: torch.device, dtype: torch.dtype, needs_grad: bool, backend: str
) -> Callable:
    return select(ROTATE, device, dtype, needs_grad, backend)


def _triton(
    x: Tensor,
    heads: int,
    weight: Tensor | None,
    eps: float,
    angles: Angles | None,
    out: Tensor | None,
) -> Tensor:
    from longlive_core.fused.kernels import rotate_rows as kernel

    with torch.cuda.device(x.device):
        return kernel.rotate_heads(x, heads, weight, eps, angles, out)


def _reference(
    x: Tensor,
    heads: int,
    weight: Tensor | None,
    eps: float,
    angles: Angles | None,
    out: Tensor | None,
) -> Tensor:
    y = x
    if weight is not None:
        y = ((x.float() * rms_statistic(x, eps)) * weight.float()).to(x.dtype)
    y = y.unflatten(-1, (heads, -1))
    if angles is not None:
        cos, sin = angles
        first, second = y.float().unflatten(-1, (-1, 2)).unbind(-1)
        cos, minus, plus = cos[..., 0], sin[..., 0], sin[..., 1]
        turned = (first * cos + second * minus, second * cos + first * plus)
        y = torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
    return y if out is None else out.copy_(y)


def _torch(
    x: Tensor,
    heads: int,
    weight: Tensor | None,
    eps: float,
    angles: Angles | None,
    out: Tensor | None,
) -> Tensor:
    y = x
    if weight is not None:  # of one type the two have a kernel of their own
        y = F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps).to(x.dtype)
    y = y.unflatten(-1, (heads, -1))
    if angles is not None:
        y = turn(y, angles)
    return y if out is None else out.copy_(y)


ROTATE = Operation(
    "rotate",
    (
        Backend(name="triton", run=_triton, why_not=needs_fused),
        Backend(name="reference", run=_reference, why_not=needs_written_out, why_not_auto=slower),
        Backend(name="torch", run=_torch),
    ),
)
