"""Products of FP8 matrices: for each scaling a table of backends (``matmul_backends.py``)."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.backends import Operation, Receipt, Request
from longlive_core.checks import instance, switch, text
from longlive_core.float8.matmul_backends import BLOCK_MATMUL, ROW_MATMUL
from longlive_core.float8.tensor import BLOCK, Float8Tensor, Scaling
from longlive_core.tensor_checks import dense, together
from longlive_core.traced import constant_when_compiled


def matmul(
    a: Float8Tensor,
    b: Float8Tensor,
    *,
    bias: Float[Tensor, " cols"] | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    backend: str = "auto",
    strict: bool = False,
    quality: str = "lossless",
) -> Float[Tensor, "rows cols"]:
    """``a b^T + bias``, summed in float32 and rounded once to ``out_dtype``, the bias's type.

    Both are scaled by rows, or ``a`` by 1x128 and ``b`` by 128x128. ``strict`` refuses emulation,
    ``quality="high"`` lets "auto" sum in fewer bits.
    Raises ValueError for other pairs and sizes, ``BackendUnavailable`` as every operation does.
    """
    for name, x in (("a", a), ("b", b)):
        why = "both are rounded before. Pass what quantize gave."
        instance(f"float8.matmul's {name}", x, Float8Tensor, why=why)
    together("float8.matmul's a and b", a.codes, b.codes)
    text("float8.matmul's backend", backend, why="it names what multiplies. Use 'auto'.")
    switch("float8.matmul's strict", strict, why="True refuses to emulate.")
    if bias is not None:
        dense("float8.matmul's bias", bias, why="it has a number for each output.")
    operation = operation_for(a.scaling, b.scaling)
    (rows, width), (columns, other) = a.codes.shape, b.codes.shape
    step = multiple(b.scaling)
    if width != other or width % step or columns % step:
        raise ValueError(
            f"float8.matmul multiplies [rows, k] by [n, k] with k and n divisible by {step}, got "
            f"{(rows, width)} by {(columns, other)}: the hardware takes them in such steps. Pad "
            f"with zeros before quantizing, or leave this layer in bfloat16."
        )
    if bias is not None and (bias.dtype != out_dtype or bias.shape != (columns,)):
        raise ValueError(
            f"float8.matmul adds a bias of {columns} numbers in the result's type, {out_dtype}, "
            f"got {tuple(bias.shape)} in {bias.dtype}: both are rounded together. Convert the bias."
        )
    name = _choose(operation.name, a.codes.device, out_dtype, backend, strict, quality)
    return operation.named(name).run(a, b, bias, out_dtype)


def multiple(weight: Scaling) -> int:
    """What both sizes of a weight must be divisible by: 128 for squares, else 16."""
    return BLOCK if weight is Scaling.SQUARE else 16


def operation_for(a: Scaling, b: Scaling) -> Operation:
    """The table of backends for operands scaled so. Raises ``ValueError`` for other pairs."""
    if (a, b) == (Scaling.ROW, Scaling.ROW):
        return ROW_MATMUL
    if (a, b) == (Scaling.ROW_BLOCK, Scaling.SQUARE):
        return BLOCK_MATMUL
    raise ValueError(
        f"float8.matmul has no product of operands scaled by {a.value} and {b.value}: it has row "
        f"by row, and 1x128 by 128x128. Quantize the operands so."
    )


def receipt(
    operation: Operation,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = "auto",
    strict: bool = False,
    quality: str = "lossless",
) -> Receipt:
    """Which backend a product takes whose result is of ``dtype``, and why."""
    request = Request(device=device, dtype=dtype, quality=quality)
    return operation.receipt(request, backend, strict=strict)


@constant_when_compiled
def _choose(
    name: str, device: torch.device, dtype: torch.dtype, backend: str, strict: bool, quality: str
) -> str:
    return _chosen(name, device, dtype, backend, strict, quality)


@functools.cache
def _chosen(
    name: str, device: torch.device, dtype: torch.dtype, backend: str, strict: bool, quality: str
) -> str:
    """Asked once: a device does not change its mind."""
    operation = next(one for one in (ROW_MATMUL, BLOCK_MATMUL) if one.name == name)
    return receipt(operation, device, dtype, backend, strict, quality).backend
