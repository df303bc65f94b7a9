"""The library operations that quantize and dequantize; ``quantize_backends.py`` has what they run.

A ``torch.library`` operation is one node of a compiled model. It takes tensors and plain values, a
config as one text (``format.config_text``); ``quantize.py`` has the functions that people call. The
backend is chosen when the operation runs, and remembered per device and type.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from longlive_core.backends import Operation, Request
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, config_from_text
from longlive_core.nvfp4.quantize_backends import DEQUANTIZE, QUANTIZE, QUANTIZE_BOTH


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
    config: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Codes and block scales of a matrix of whole blocks."""
    run = _implementation(QUANTIZE, x.device, x.dtype, backend)
    _refuse_impossible(amax)
    if x.numel() == 0:  # no backend launches anything for nothing
        return _empty_codes(x, *x.shape)
    return run(x, amax, config_from_text(config), seed)


@_quantize.register_fake
def _(x, amax, seed, config, backend):  # type: ignore[no-untyped-def]
    return _empty_codes(x, *x.shape)


@torch.library.custom_op("longlive::nvfp4_quantize_both", mutates_args=())
def _quantize_both(
    x: Tensor,
    amax: Tensor,
    seeds: Tensor | None,
    config: str,
    rotated: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Codes and block scales of a matrix and of its transpose, and the transpose's amax."""
    run = _implementation(QUANTIZE_BOTH, x.device, x.dtype, backend)
    _refuse_impossible(amax)
    if x.numel() == 0:
        rows, cols = x.shape
        return *_empty_codes(x, rows, cols), *_empty_codes(x, cols, rows), amax.clone()
    return run(x, amax, config_from_text(config), seeds, rotated)


@_quantize_both.register_fake
def _(x, amax, seeds, config, rotated, backend):  # type: ignore[no-untyped-def]
    rows, cols = x.shape
    return *_empty_codes(x, rows, cols), *_empty_codes(x, cols, rows), torch.empty_like(amax)


@torch.library.custom_op("longlive::nvfp4_dequantize", mutates_args=())
def _dequantize(
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: str,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """The matrix that codes and block scales stand for."""
    return decode(codes, scales, amax, config_from_text(config), dtype, backend)


@_dequantize.register_fake
def _(codes, scales, amax, config, dtype, backend):  # type: ignore[no-untyped-def]
    return torch.empty(codes.shape[0], 2 * codes.shape[1], dtype=dtype, device=codes.device)


@torch.library.custom_op("longlive::nvfp4_dequantize_into", mutates_args=("out",))
def _dequantize_into(
    out: Tensor,
    codes: Tensor,
    scales: Tensor,
    amax: Tensor,
    config: str,
    backend: str,
) -> None:
    """The matrix that codes and block scales stand for, written into ``out``."""
    decode_into(out, codes, scales, amax, config_from_text(config), backend)


@torch.library.custom_op("longlive::nvfp4_fake_quantize", mutates_args=())
def _fake_quantize(
    x: Tensor,
    amax: Tensor,
    seed: Tensor | None,
    config: str,
    backend: str,
) -> Tensor:
    """Quantize and read back at once."""
    codes, scales = _quantize(x, amax, seed, config, backend)
    return _dequantize(codes, scales, amax, config, x.dtype, backend)


@_fake_quantize.register_fake
def _(x, amax, seed, config, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _pass_gradient(context: object, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient, *[None] * 4


_fake_quantize.register_autograd(_pass_gradient)


def _refuse_impossible(amax: Tensor) -> None:
    """Where asking costs nothing: another device would have to be waited for."""
    if amax.device.type == "cpu" and bool(((amax < 0) | amax.isinf()).any()):
        wrong = amax[(amax < 0) | amax.isinf()].flatten()[0].item()
        raise ValueError(
            f"nvfp4 got an amax of {wrong:g}: it is the largest magnitude, which is a number and "
            f"never negative. Take x.abs().max()."
        )


def _empty_codes(x: Tensor, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    codes = torch.empty(rows, cols // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, cols // BLOCK, dtype=torch.float8_e4m3fn, device=x.device)
    return codes, scales
