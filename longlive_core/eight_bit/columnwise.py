"""Columns of numbers as E4M3 rows: a matrix is turned over while it is rounded.

A product that is summed over the rows of both its operands, as a weight's gradient is summed over
tokens, needs them transposed, and scales that belong to what were columns. The arithmetic is that
of ``rowwise.py``, with the largest magnitude of each column given:

    scale = max(amax / 448, 2 ** -126)        code = x / scale, to nearest, ties to even

Numbers beyond the given ``amax`` saturate.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Float8e4m3fn, Float32, Shaped
from torch import Tensor
from torch.nn.functional import pad

from longlive_core.backends import Backend, Operation, Request, needs_triton
from longlive_core.eight_bit.format import LARGEST
from longlive_core.eight_bit.rowwise import FLOATS

MULTIPLE = 16
"""What the hardware's products are summed over comes in multiples of so many numbers."""
_LARGEST = LARGEST[torch.float8_e4m3fn]

Encoded = tuple[Float8e4m3fn[Tensor, "cols filled_up"], Float32[Tensor, "cols 1"]]


def column_amax(x: Float[Tensor, "rows cols"]) -> Float32[Tensor, " cols"]:
    """The largest magnitude of each column; 0 where there are no rows."""
    if not x.shape[0]:
        return torch.zeros(x.shape[1], dtype=torch.float32, device=x.device)
    return torch.linalg.vector_norm(x.detach(), ord=torch.inf, dim=0).float()


def encode_columns(
    x: Shaped[Tensor, "..."], amax: Shaped[Tensor, "..."], *, backend: str = "auto"
) -> Encoded:
    """E4M3 codes [cols, rows] of a matrix's transpose, and scales [cols, 1]; no gradient.

    Rows of codes are filled up with zeros to a multiple of 16. ``amax`` is what ``column_amax``
    gives, or the largest of several ranks' parts. ``backend`` is a name of the table
    ``ENCODE_COLUMNS`` or "auto". Raises ``ValueError`` for what is no matrix of floats or has
    another number of columns, ``BackendUnavailable`` for a backend that cannot run.
    """
    if x.dtype not in FLOATS or x.ndim != 2:
        raise ValueError(
            f"encode_columns takes a matrix of {', '.join(map(str, FLOATS))}, got {x.dtype} of "
            f"shape {tuple(x.shape)}: its arithmetic is float32, a scale a column. Convert it."
        )
    if amax.dtype != torch.float32 or amax.shape != x.shape[1:]:
        raise ValueError(
            f"encode_columns scales {x.shape[1]} columns by as many float32 magnitudes, got "
            f"{amax.dtype} of shape {tuple(amax.shape)}. Use column_amax."
        )
    return torch.ops.longlive.encode_columns(x.detach().contiguous(), amax.contiguous(), backend)


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return ENCODE_COLUMNS.select(Request(device=device, dtype=dtype), backend)


@torch.library.custom_op("longlive::encode_columns", mutates_args=())
def _encode_columns(x: Tensor, amax: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """One node of a compiled model; the backend is chosen when it runs."""
    run = _implementation(x.device, x.dtype, backend)
    codes, scales = run(x, amax, _filled_up(x.shape[0]))
    return codes, scales


@_encode_columns.register_fake
def _(x, amax, backend):  # type: ignore[no-untyped-def]
    rows, cols = x.shape
    shape = (cols, _filled_up(rows))
    codes = torch.empty(shape, dtype=torch.float8_e4m3fn, device=x.device)
    return codes, torch.empty(cols, 1, dtype=torch.float32, device=x.device)


def _filled_up(rows: int) -> int:
    return -(-rows // MULTIPLE) * MULTIPLE


def _triton(x: Tensor, amax: Tensor, padded: int) -> Encoded:
    from longlive_core.eight_bit.kernels import encode_byte_columns

    with torch.cuda.device(x.device):
        return encode_byte_columns.encode_columns(x, amax, padded)


def _reference(x: Tensor, amax: Tensor, padded: int) -> Encoded:
    scales = (amax / amax.new_full((), _LARGEST)).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (x.float() / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    rows = pad(codes.view(torch.uint8).t(), (0, padded - x.shape[0])).contiguous()
    return rows.view(torch.float8_e4m3fn), scales[:, None]


ENCODE_COLUMNS = Operation(
    "encode_columns",
    (
        Backend(name="triton", run=_triton, why_not=needs_triton),
        Backend(name="reference", run=_reference),
    ),
)
