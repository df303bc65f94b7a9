"""Residual, layer norm and modulation: what stands between a block's products, in one pass.

With ``x`` and ``y`` [batch, steps, tokens, dim], and a gate, a shift and a scale for each step::

    s = T(x + y * gate)        or T(x + y)
    n = (s - mean) * rstd
    modulated: T(shift + T(n) * T(1 + scale))        affine: T(n * weight + bias)

``T`` rounds to the type of ``x``; everything else is float32, an operation at a time, products
before sums. The statistics are those of ``statistics.py``. The result is ``s`` and the last line,
or its rows in E4M3 (``eight_bit.encode_rows``) where a product in FP8 follows.

========= ========================================================================================
triton    One kernel, for inference in bfloat16; the bits of "reference".
reference The lines above, one after another; the same bits on every device.
torch     torch's own layer norm, whose sums have another order, with gradients and for every type:
          training, CPUs, compiled models. It differs from the others where a mean or a variance
          does in float32's last bits.
========= ========================================================================================
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Backend, Operation
from longlive_core.eight_bit import EncodedRows, encode_rows
from longlive_core.fused.choice import asked, needs_fused, needs_written_out, select, slower
from longlive_core.fused.statistics import layer_statistics

Tokens = Float[Tensor, "batch steps tokens dim"]
Steps = Float[Tensor, "batch steps dim"]


@dataclass(frozen=True, slots=True)
class Modulation:
    """What follows a norm: ``n * (1 + scale) + shift``, the same for all tokens of a step."""

    shift: Steps
    scale: Steps


@dataclass(frozen=True, slots=True)
class Affine:
    """What follows a norm: ``n * weight + bias``."""

    weight: Float[Tensor, " dim"]
    bias: Float[Tensor, " dim"]


After = Modulation | Affine
Normed = Tensor | EncodedRows


def norm(
    x: Tokens, after: After, *, eps: float, encode: bool = False, backend: str = "auto"
) -> Normed:
    """The layer norm of ``x``, modulated or affine.

    Args:
        x: the tokens, grouped by step.
        after: what follows the norm.
        eps: is added to the variance.
        encode: return the rows in E4M3, which carry no gradient.
        backend: a name of the table ``NORM``, or "auto".

    Raises:
        BackendUnavailable: the backend that was named cannot run.
    """
    return _run(x, None, None, after, eps, encode, backend)[1]


def add_norm(
    x: Tokens,
    y: Tokens,
    gate: Steps | None,
    after: After,
    *,
    eps: float,
    encode: bool = False,
    backend: str = "auto",
) -> tuple[Tokens, Normed]:
    """``x + y * gate`` (no gate: 1), and the norm of that; arguments as ``norm`` has them."""
    return _run(x, y, gate, after, eps, encode, backend)


def add(x: Tokens, y: Tokens, gate: Steps | None, *, backend: str = "auto") -> Tokens:
    """``x + y * gate``, rounded once; no gate is one of 1."""
    return _run(x, y, gate, None, 0.0, False, backend)[0]


def _run(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    after: After | None,
    eps: float,
    encode: bool,
    backend: str,
) -> tuple[Tensor, Normed]:
    last = () if after is None else (_first(after), _second(after))
    run = _implementation(*asked(NORM, backend, x, y, gate, *last))
    return run(x, y, gate, after, eps, encode)


@functools.cache
def _implementation(
    device: torch.device, dtype: torch.dtype, needs_grad: bool, backend: str
) -> Callable:
    return select(NORM, device, dtype, needs_grad, backend)


def _first(after: After) -> Tensor:
    return after.shift if isinstance(after, Modulation) else after.weight


def _second(after: After) -> Tensor:
    return after.scale if isinstance(after, Modulation) else after.bias


def _triton(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    after: After | None,
    eps: float,
    encode: bool,
) -> tuple[Tensor, Normed]:
    from longlive_core.fused.kernels import norm_rows as kernel

    operands = None if after is None else (_first(after), _second(after))
    modulated = isinstance(after, Modulation)
    with torch.cuda.device(x.device):
        return kernel.add_norm(x, y, gate, operands, modulated=modulated, eps=eps, encode=encode)


def _reference(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    after: After | None,
    eps: float,
    encode: bool,
) -> tuple[Tensor, Normed]:
    dtype = x.dtype
    if y is not None:
        product = y.float() if gate is None else y.float() * gate.float()[..., None, :]
        x = (x.float() + product).to(dtype)
    if after is None:
        return x, x
    mean, rstd = layer_statistics(x, eps)
    n = (x.float() - mean) * rstd
    if isinstance(after, Modulation):
        scale = (1 + after.scale.float()).to(dtype).float()[..., None, :]
        n = after.shift.float()[..., None, :] + n.to(dtype).float() * scale
    else:
        n = n * after.weight.float() + after.bias.float()
    return x, _encoded(n.to(dtype)) if encode else n.to(dtype)


def _torch(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    after: After | None,
    eps: float,
    encode: bool,
) -> tuple[Tensor, Normed]:
    if y is not None:
        x = x + y if gate is None else torch.addcmul(x, y, gate[..., None, :])
    if after is None:
        return x, x
    size = x.shape[-1:]
    if isinstance(after, Modulation):
        shift, scale = after.shift[..., None, :], after.scale[..., None, :]
        n = torch.addcmul(shift, F.layer_norm(x, size, None, None, eps), 1 + scale)
    else:
        n = F.layer_norm(x, size, after.weight, after.bias, eps)
    return x, _encoded(n) if encode else n


def _encoded(x: Tensor) -> EncodedRows:
    codes, scales = encode_rows(x.flatten(0, -2), torch.float8_e4m3fn)
    return EncodedRows(codes.view(x.shape), scales.view(*x.shape[:-1], 1))


NORM = Operation(
    "norm",
    (
        Backend(name="triton", run=_triton, why_not=needs_fused),
        Backend(name="reference", run=_reference, why_not=needs_written_out, why_not_auto=slower),
        Backend(name="torch", run=_torch),
    ),
)
