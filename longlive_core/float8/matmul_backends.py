"""The tables of backends for products of FP8 matrices; ``matmul.py`` has the functions.

``F.scaled_mm`` multiplies on the tensor cores of Ada, Hopper and later. Everywhere else the product
is emulated: decode, then multiply in float32, which is what the hardware's result means. A backend
is ``run(a, b, bias, out_dtype)``.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import ScalingType, pad, scaled_mm

from longlive_core.backends import (
    Backend,
    Operation,
    Request,
    all_of,
    needs_compute_capability,
    needs_dtype,
)
from longlive_core.float8.tensor import Float8Tensor, dequantize

FEW_ROWS = 32
"""Of so many rows, cuBLAS refuses sums over 14,336 numbers that are accumulated fast."""


def _scaled_mm_rows(
    a: Float8Tensor,
    b: Float8Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    *,
    fast: bool = False,
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
        use_fast_accum=fast and a.codes.shape[0] > FEW_ROWS,
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
    out = out if bias is None else out + bias.float()
    # not `to` alone: compiled by torch 2.11, a forward that ends with one that changes nothing has
    # no gradient (findings/torch_compiled_alias.sh)
    return out if out.dtype == out_dtype else out.to(out_dtype)


def _needs_cuda_12_9(request: Request) -> str | None:
    built_with = tuple(int(part) for part in (torch.version.cuda or "0.0").split(".")[:2])
    if built_with < (12, 9):
        return f"it needs a torch built with CUDA 12.9 or later, this one has {torch.version.cuda}"
    return None


ROW_MATMUL = Operation(
    "float8.matmul",
    (
        Backend(  # sums stay in the tensor cores' own accumulators, of fewer bits than float32
            name="scaled_mm_fast",
            run=partial(_scaled_mm_rows, fast=True),
            why_not=all_of(needs_compute_capability((8, 9)), needs_dtype(torch.bfloat16)),
            quality="high",
        ),
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
