"""Rows of numbers in a byte each, E4M3 or INT8, with a float32 scale for each row.

A number is read back as ``code * scale``. The scale makes the row's largest magnitude the format's
largest: what FP8 matrices, eight-bit pages and the FP8 wire have in common.

    E4M3   scale = max(amax / 448, 2 ** -126)        code = x / scale, to nearest, ties to even
    INT8   scale = max(amax * (1 / 127), 2 ** -126)  code = x / scale, to nearest, ties to even

In float32, whatever float type the numbers are in. A row of zeros has the smallest scale and
decodes to zeros. A row with a NaN or an infinity decodes to NaN as a whole; the bits of such a row
are not defined.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float8e4m3fn, Float32, Shaped
from torch import Tensor

from longlive_core.backends import Backend, Operation, Request, needs_triton
from longlive_core.eight_bit.format import LARGEST
from longlive_core.tensor_checks import dense

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Encoded = tuple[Shaped[Tensor, "rows cols"], Float32[Tensor, "rows 1"]]


class EncodedRows(NamedTuple):
    """Rows in E4M3, each with its scale: what a product in FP8 takes in place of numbers."""

    codes: Float8e4m3fn[Tensor, "*batch cols"]
    scales: Float32[Tensor, "*batch 1"]


def encode_rows(
    rows: Shaped[Tensor, "..."], code_dtype: torch.dtype, *, backend: str = "auto"
) -> Encoded:
    """Codes of ``code_dtype`` (float8_e4m3fn or int8) and scales; no gradient.

    ``backend`` is a name of the table ``ENCODE_ROWS`` or "auto". Raises ``ValueError`` for another
    ``code_dtype``, ``BackendUnavailable`` for a backend that cannot run.
    """
    if not isinstance(code_dtype, torch.dtype) or code_dtype not in LARGEST:
        raise ValueError(
            f"encode_rows(code_dtype={code_dtype}): rows become a byte a number, in one of "
            f"{', '.join(map(str, LARGEST))}. Use one of these."
        )
    dense("what encode_rows rounds", rows, why="it is a matrix, a scale a row.")
    if rows.ndim == 2 and rows.shape[1] == 0:
        raise ValueError(
            f"encode_rows takes rows of one number or more, got shape {tuple(rows.shape)}: a row's "
            f"scale is that of its largest number. Leave such a matrix out."
        )
    if rows.dtype not in FLOATS or rows.ndim != 2:
        raise ValueError(
            f"encode_rows takes a matrix of {', '.join(map(str, FLOATS))}, got {rows.dtype} of "
            f"shape {tuple(rows.shape)}: its arithmetic is float32, a scale a row. Convert it."
        )
    return torch.ops.longlive.encode_rows(rows.detach().contiguous(), code_dtype, backend)


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return ENCODE_ROWS.select(Request(device=device, dtype=dtype), backend)


@torch.library.custom_op("longlive::encode_rows", mutates_args=())
def _encode_rows(rows: Tensor, code_dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    """One node of a compiled model; the backend is chosen when it runs."""
    return _implementation(rows.device, rows.dtype, backend)(rows, code_dtype)


@_encode_rows.register_fake
def _(rows, code_dtype, backend):  # type: ignore[no-untyped-def]
    codes = torch.empty(rows.shape, dtype=code_dtype, device=rows.device)
    return codes, torch.empty(rows.shape[0], 1, dtype=torch.float32, device=rows.device)


def _triton(rows: Tensor, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from longlive_core.eight_bit.kernels import encode_byte_rows

    with torch.cuda.device(rows.device):
        return encode_byte_rows.encode_rows(rows, code_dtype)


def _reference(rows: Tensor, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    wide, largest = rows.float(), LARGEST[code_dtype]
    amax = wide.abs().amax(1, keepdim=True)
    if code_dtype == torch.int8:
        scales = amax * (1.0 / largest)
    else:
        scales = amax / amax.new_full((), largest)  # CUDA multiplies by a number's reciprocal
    scales = scales.clamp_min(torch.finfo(torch.float32).tiny)
    codes = (wide / scales).clamp(-largest, largest)
    if code_dtype == torch.int8:
        codes = codes.round().nan_to_num(nan=0.0)  # a scale of NaN says it all
    return codes.to(code_dtype), scales


ENCODE_ROWS = Operation(
    "encode_rows",
    (
        Backend(name="triton", run=_triton, why_not=needs_triton),
        Backend(name="reference", run=_reference),
    ),
)
