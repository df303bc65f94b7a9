"""The library operations that quantize and dequantize, and the tables of backends behind them.

A ``torch.library`` operation is one node of a compiled model. It takes tensors and plain values;
``quantize.py`` has the functions that people call. The backend is chosen when the operation runs,
and remembered per device and type.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from longlive_core.backends import Backend, Operation, Request, needs_triton
from longlive_core.nvfp4 import reference
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, ScaleRule
from longlive_core.nvfp4.hadamard import rotate_wide


def config_fields(config: QuantizeConfig) -> tuple[str, int, int, str]:
    """A config as an operation's arguments; ``config_from`` reads them back."""
    return config.rule.value, config.largest_scale, config.block[0], config.rounding


def config_from(rule: str, bound: int, block_rows: int, rounding: str) -> QuantizeConfig:
    """The config that ``config_fields`` took apart."""
    return QuantizeConfig(
        rule=ScaleRule(rule),
        bound=bound,
        block=(block_rows, BLOCK),
        rounding="stochastic" if rounding == "stochastic" else "nearest",
    )


def largest_magnitude(parts: Tensor) -> Tensor:
    """The largest magnitude along the last dimension, float32; NaN where it is not finite."""
    largest = torch.linalg.vector_norm(parts, math.inf, dim=-1, dtype=torch.float32)
    return largest.nan_to_num(nan=math.nan, posinf=math.nan)


@functools.cache
def _implementation(
    operation: Operation, device: torch.device, dtype: torch.dtype, name: str
) -> Callable:
    return operation.select(Request(device=device, dtype=dtype), name)


def decode(
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: QuantizeConfig,
    dtype: torch.dtype,
    backend: str = "auto",
) -> Tensor:
    """The matrix that codes and block scales stand for; for use within an operation."""
    rows, half_cols = codes.shape
    out = torch.empty(rows, 2 * half_cols, dtype=dtype, device=codes.device)
    decode_into(out, codes, scales, amax, config, backend)
    return out


def decode_into(
    out: Tensor,
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: QuantizeConfig,
    backend: str = "auto",
) -> None:
    """``decode`` into memory that is already there."""
    run = _implementation(DEQUANTIZE, codes.device, out.dtype, backend)
    if codes.numel():
        run(codes, scales, amax, config, out)


@torch.library.custom_op("longlive::nvfp4_quantize", mutates_args=())
def _quantize(
    x: Tensor,
    amax: Tensor,
    seed: Tensor | None,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Codes and block scales of a matrix of whole blocks."""
    run = _implementation(QUANTIZE, x.device, x.dtype, backend)
    _refuse_negative(amax)
    if x.numel() == 0:  # no backend launches anything for nothing
        return _empty_codes(x, *x.shape)
    return run(x, amax, config_from(rule, bound, block_rows, rounding), seed)


@_quantize.register_fake
def _(x, amax, seed, rule, bound, block_rows, rounding, backend):  # type: ignore[no-untyped-def]
    return _empty_codes(x, *x.shape)


@torch.library.custom_op("longlive::nvfp4_quantize_both", mutates_args=())
def _quantize_both(
    x: Tensor,
    amax: Tensor,
    seeds: Tensor | None,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    rotated: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes and block scales of a matrix and of its transpose, and the transpose's amax."""
    run = _implementation(QUANTIZE_BOTH, x.device, x.dtype, backend)
    _refuse_negative(amax)
    if x.numel() == 0:
        rows, cols = x.shape
        return *_empty_codes(x, rows, cols), *_empty_codes(x, cols, rows), amax.clone()
    return run(x, amax, config_from(rule, bound, block_rows, rounding), seeds, rotated)


@_quantize_both.register_fake
def _(x, amax, seeds, rule, bound, block_rows, rounding, rotated, backend):  # type: ignore[no-untyped-def]
    rows, cols = x.shape
    return *_empty_codes(x, rows, cols), *_empty_codes(x, cols, rows), torch.empty_like(amax)


@torch.library.custom_op("longlive::nvfp4_dequantize", mutates_args=())
def _dequantize(
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """The matrix that codes and block scales stand for."""
    config = config_from(rule, bound, block_rows, rounding)
    return decode(codes, scales, amax, config, dtype, backend)


@_dequantize.register_fake
def _(codes, scales, amax, rule, bound, block_rows, rounding, dtype, backend):  # type: ignore[no-untyped-def]
    return torch.empty(codes.shape[0], 2 * codes.shape[1], dtype=dtype, device=codes.device)


@torch.library.custom_op("longlive::nvfp4_dequantize_into", mutates_args=("out",))
def _dequantize_into(
    out: Tensor,
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    backend: str,
) -> None:
    """The same, into memory that is already there."""
    config = config_from(rule, bound, block_rows, rounding)
    decode_into(out, codes, scales, amax, config, backend)


@torch.library.custom_op("longlive::nvfp4_fake_quantize", mutates_args=())
def _fake_quantize(
    x: Tensor,
    amax: Tensor,
    seed: Tensor | None,
    rule: str,
    bound: int,
    block_rows: int,
    rounding: str,
    backend: str,
) -> Tensor:
    """Quantize and read back at once."""
    fields = rule, bound, block_rows, rounding
    codes, scales = _quantize(x, amax, seed, *fields, backend)
    return _dequantize(codes, scales, amax, *fields, x.dtype, backend)


@_fake_quantize.register_fake
def _(x, amax, seed, rule, bound, block_rows, rounding, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _pass_gradient(context: object, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient, *[None] * 7


_fake_quantize.register_autograd(_pass_gradient)


def _refuse_negative(amax: Tensor) -> None:
    """Where asking costs nothing: another device would have to be waited for."""
    if amax.device.type == "cpu" and bool((amax < 0).any()):
        raise ValueError(
            f"nvfp4 got an amax of {amax.min().item():g}: it is the largest magnitude, which is "
            f"never negative. Take x.abs().max()."
        )


def _empty_codes(x: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    codes = torch.empty(rows, cols // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, cols // BLOCK, dtype=torch.float8_e4m3fn, device=x.device)
    return codes, scales


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
