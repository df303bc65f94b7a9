"""GELU (tanh) of the rows of a feed-forward layer, which may leave in E4M3.

The kernel computes ``x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x ** 3))``, which is GELU's
tanh form, in float32, and rounds it to the type of ``x`` and then to E4M3, by the reciprocal of a
row's scale. Its exponential and its division are the GPU's approximate ones. It differs from
torch's GELU and ``encode_rows`` in the last bit for a few numbers in a thousand, so it is of the
quality "high".
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Backend, Operation
from longlive_core.eight_bit import EncodedRows, encode_rows
from longlive_core.fused.choice import asked, needs_fused, select


def gelu(
    x: Float[Tensor, "*batch width"],
    *,
    encode: bool = False,
    backend: str = "auto",
    quality: str = "lossless",
) -> Tensor | EncodedRows:
    """GELU in its tanh form; with ``encode``, its rows in E4M3.

    Rows in E4M3 carry no gradient. ``backend`` is a name of the table ``GELU`` or "auto", which
    takes the kernel for the quality "high" where rows are encoded. Raises ``BackendUnavailable``
    for one that cannot run.
    """
    if not encode:
        return F.gelu(x, approximate="tanh")
    return _implementation(*asked(GELU, backend, x), quality)(x)


@functools.cache
def _implementation(
    device: torch.device, dtype: torch.dtype, needs_grad: bool, backend: str, quality: str
) -> Callable:
    return select(GELU, device, dtype, needs_grad, backend, quality)


def _triton(x: Tensor) -> EncodedRows:
    from longlive_core.fused.kernels import gelu_rows as kernel

    with torch.cuda.device(x.device):
        return EncodedRows(*kernel.gelu_rows(x))


def _torch(x: Tensor) -> EncodedRows:
    rows = F.gelu(x, approximate="tanh").flatten(0, -2)
    codes, scales = encode_rows(rows, torch.float8_e4m3fn)
    return EncodedRows(codes.view(x.shape), scales.view(*x.shape[:-1], 1))


GELU = Operation(
    "gelu",
    (
        Backend(name="triton", run=_triton, why_not=needs_fused, quality="high"),
        Backend(name="torch", run=_torch),
    ),
)
