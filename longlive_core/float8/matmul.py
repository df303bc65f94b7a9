"""Products of FP8 matrices: for each scaling a table of backends.

``F.scaled_mm`` multiplies on the tensor cores of Ada, Hopper and later. Everywhere else the product
is emulated: decode, then multiply in float32, which is what the hardware's result means.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import ScalingType, pad, scaled_mm

from longlive_core.backends import (
    Backend,
    Operation,
    Receipt,
    Request,
    all_of,
    needs_compute_capability,
    needs_dtype,
)
from longlive_core.float8.tensor import BLOCK, Float8Tensor, Scaling, dequantize


def matmul(
    a: Float8Tensor,
    b: Float8Tensor,
    *,
    bias: Float[Tensor, " cols"] | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    backend: str = "auto",
    strict: bool = False,
) -> Float[Tensor, "rows cols"]:
    """``a b^T + bias``, summed in float32 and rounded once to ``out_dtype``, the bias's type.

    Both are scaled by rows, or ``a`` by 1x128 and ``b`` by 128x128. ``strict`` refuses emulation.
    Raises ValueError for other pairs and sizes, ``BackendUnavailable`` as every operation does.
    """
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
    name = _choose(operation.name, a.codes.device, out_dtype, backend, strict)
    return operation.named(name).run(a, b, bias, out_dtype)


def multiple(weight: Scaling) -> int:
    """What both sides of a weight divide by: whole blocks, or a tensor core's step."""
    return BLOCK if weight is Scaling.SQUARE else 16


def operation_for(a: Scaling, b: Scaling) -> Operation:
    """The table for operands scaled like this."""
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
) -> Receipt:
    """The account of a product whose result is of ``dtype``."""
    return operation.receipt(Request(device=device, dtype=dtype), backend, strict=strict)


def _constant_when_compiled(choose: Callable[..., str]) -> Callable[..., str]:
    vars(choose)["_dynamo_marked_constant"] = True
    return choose


@_constant_when_compiled
def _choose(name: str, device: torch.device, dtype: torch.dtype, backend: str, strict: bool) -> str:
    return _chosen(name, device, dtype, backend, strict)


@functools.cache
def _chosen(name: str, device: torch.device, dtype: torch.dtype, backend: str, strict: bool) -> str:
    """Asked once: a device does not change its mind."""
    operation = next(one for one in (ROW_MATMUL, BLOCK_MATMUL) if one.name == name)
    return receipt(operation, device, dtype, backend, strict).backend


def _scaled_mm_rows(
    a: Float8Tensor, b: Float8Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    return scaled_mm(
        a.codes,
        b.codes.t(),
        scale_a=a.scales,
        scale_recipe_a=ScalingType.RowWise,
        scale_b=b.scales.t(),
        scale_recipe_b=ScalingType.RowWise,
        bias=bias,
        output_dtype=out_dtype,
    )


def _scaled_mm_blocks(
    a: Float8Tensor, b: Float8Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """cuBLASLt wants a's rows in fours, a's scales column by column, and b's rows of scales padded
    to a multiple of four."""
    rows = a.codes.shape[0]
    more = -rows % 4
    codes = pad(a.codes.view(torch.uint8), (0, 0, 0, more)).view(torch.float8_e4m3fn)
    scale_a = pad(a.scales, (0, 0, 0, more)).t().contiguous().t()
    scale_b = pad(b.scales, (0, -b.scales.shape[1] % 4)).t()
    out = scaled_mm(
        codes,
        b.codes.t(),
        scale_a=scale_a,
        scale_recipe_a=ScalingType.BlockWise1x128,
        scale_b=scale_b,
        scale_recipe_b=ScalingType.BlockWise128x128,
        bias=bias,
        output_dtype=out_dtype,
    )
    return out[:rows]


def _emulated(
    a: Float8Tensor, b: Float8Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    out = dequantize(a) @ dequantize(b).t()
    return (out if bias is None else out + bias.float()).to(out_dtype)


def _needs_cuda_12_9(request: Request) -> str | None:
    built_with = tuple(int(part) for part in (torch.version.cuda or "0.0").split(".")[:2])
    if built_with < (12, 9):
        return f"it needs a torch built with CUDA 12.9 or later, this one has {torch.version.cuda}"
    return None


ROW_MATMUL = Operation(
    "float8.matmul",
    (
        Backend(
            name="scaled_mm",
            run=_scaled_mm_rows,
            why_not=all_of(needs_compute_capability((8, 9)), needs_dtype(torch.bfloat16)),
        ),
        Backend(name="reference", run=_emulated, emulates=True),
    ),
)

BLOCK_MATMUL = Operation(
    "float8.block_matmul",
    (
        Backend(
            name="scaled_mm",
            run=_scaled_mm_blocks,
            why_not=all_of(
                needs_compute_capability((9, 0), (9, 0)),
                _needs_cuda_12_9,
                needs_dtype(torch.bfloat16, torch.float32),
            ),
        ),
        Backend(name="reference", run=_emulated, emulates=True),
    ),
)
