"""The tables of backends that quantize and dequantize; ``quantize_ops.py`` has the operations.

A backend takes matrices of whole blocks: one of ``QUANTIZE`` is ``run(x, amax, config, seed)``, one
of ``QUANTIZE_BOTH`` is ``run(x, amax, config, seeds, rotated)``, one of ``DEQUANTIZE`` writes into
its last argument, ``run(codes, block_scales, amax, config, out)``.
"""

import math

import torch
from torch import Tensor

from longlive_core.backends import Backend, Operation, needs_triton
from longlive_core.nvfp4 import reference
from longlive_core.nvfp4.format import QuantizeConfig
from longlive_core.nvfp4.hadamard import rotate_wide


def largest_magnitude(parts: Tensor) -> Tensor:
    """The largest magnitude along the last dimension, float32; NaN where it is not finite."""
    largest = torch.linalg.vector_norm(parts, math.inf, dim=-1, dtype=torch.float32)
    return largest.nan_to_num(nan=math.nan, posinf=math.nan)


def _triton_quantize(
    x: Tensor, amax: Tensor, config: QuantizeConfig, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    from longlive_core.nvfp4.kernels import quantize

    with torch.cuda.device(x.device):
        return quantize.quantize(x, amax, config, seed)


def _triton_quantize_both(
    x: Tensor, amax: Tensor, config: QuantizeConfig, seeds: Tensor | None, rotated: bool
) -> tuple[Tensor, ...]:
    from longlive_core.nvfp4.kernels import quantize

    with torch.cuda.device(x.device):
        return quantize.quantize_both(x, amax, config, seeds, rotated)


def _triton_dequantize(
    codes: Tensor, scales: Tensor, amax: Tensor, config: QuantizeConfig, out: Tensor
) -> None:
    from longlive_core.nvfp4.kernels import dequantize

    with torch.cuda.device(codes.device):
        dequantize.dequantize(codes, scales, amax, config, out)


def _reference_quantize_both(
    x: Tensor, amax: Tensor, config: QuantizeConfig, seeds: Tensor | None, rotated: bool
) -> tuple[Tensor, ...]:
    turned = rotate_wide(x.t().contiguous()) if rotated else x.t()
    amax_t = largest_magnitude(turned.flatten()) if rotated else amax.clone()
    seed, seed_t = (None, None) if seeds is None else seeds.unbind()
    rowwise = reference.quantize(x, amax, config, seed)
    return *rowwise, *reference.quantize(turned, amax_t, config, seed_t), amax_t


def _reference_dequantize(
    codes: Tensor, scales: Tensor, amax: Tensor, config: QuantizeConfig, out: Tensor
) -> None:
    out.copy_(reference.dequantize(codes, scales, amax, config))


QUANTIZE = Operation(
    "nvfp4.quantize",
    (
        Backend(name="triton", run=_triton_quantize, why_not=needs_triton),
        Backend(name="reference", run=reference.quantize),
    ),
)
QUANTIZE_BOTH = Operation(
    "nvfp4.quantize_both",
    (
        Backend(name="triton", run=_triton_quantize_both, why_not=needs_triton),
        Backend(name="reference", run=_reference_quantize_both),
    ),
)
DEQUANTIZE = Operation(
    "nvfp4.dequantize",
    (
        Backend(name="triton", run=_triton_dequantize, why_not=needs_triton),
        Backend(name="reference", run=_reference_dequantize),
    ),
)
