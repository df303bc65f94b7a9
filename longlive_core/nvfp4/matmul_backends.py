"""The tables of backends for products with NVFP4 operands; ``matmul.py`` has the functions.

A backend of ``MATMUL`` is ``run(a, b, bias, dtype)``. One of ``WEIGHT_MATMUL`` is ``prepare(b)``,
which gives ``multiply(x, bias)``: there is one that repacks the weight once for many products.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_core.backends import (
    Backend,
    Operation,
    Request,
    all_of,
    forward_only,
    needs_compute_capability,
    needs_dtype,
    needs_function,
)
from longlive_core.nvfp4 import reference
from longlive_core.nvfp4.format import E2M1_MAX, E4M3_MAX
from longlive_core.nvfp4.quantize import dequantize
from longlive_core.nvfp4.quantize_ops import decode
from longlive_core.nvfp4.scale_layout import TILE_COLS, TILE_ROWS, swizzle
from longlive_core.nvfp4.scale_rules import decode_scale
from longlive_core.nvfp4.tensor import NVFP4Tensor

Multiply = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulRequest(Request):
    """A product's request: ``dtype`` is the result's, or that of a left operand in high precision.

    ``inner`` and ``outputs`` are the padded length of the shared dimension and the rows of ``b``.
    ``groups`` is True where an operand has more than one amax.
    """

    inner: int
    outputs: int
    groups: bool = False


def _one_amax(request: Request) -> str | None:
    assert isinstance(request, MatmulRequest)
    if request.groups:
        return "it takes operands with one amax each, not one for every group of rows"
    return None


def _sizes(inner: int, outputs: int) -> Callable[[Request], str | None]:
    def why_not(request: Request) -> str | None:
        assert isinstance(request, MatmulRequest)
        if request.inner % inner or request.outputs % outputs:
            return (
                f"it needs columns divisible by {inner} and outputs divisible by {outputs}, not "
                f"{request.inner} and {request.outputs}"
            )
        return None

    return why_not


def _has_transformer_engine(request: Request) -> str | None:
    """Without its torch binding, the bare package raises at import."""
    if importlib.util.find_spec("transformer_engine_torch") is None:
        return "it needs the package transformer-engine with its torch binding"
    return None


def _cublas(a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """cuBLASLt's NVFP4 GEMM: codes as pairs, block scales swizzled, one more scale a tensor."""
    recipe = [F.ScalingType.BlockWise1x16, F.ScalingType.TensorWise]
    swizzles = [F.SwizzleType.SWIZZLE_32_4_4, F.SwizzleType.NO_SWIZZLE]
    out = F.scaled_mm(
        a.codes.view(torch.float4_e2m1fn_x2),
        b.codes.view(torch.float4_e2m1fn_x2).t(),
        scale_a=[swizzle(a.block_scales), decode_scale(a.amax, a.config)],
        scale_recipe_a=recipe,
        scale_b=[swizzle(b.block_scales), decode_scale(b.amax, b.config)],
        scale_recipe_b=recipe,
        swizzle_a=swizzles,
        swizzle_b=swizzles,
        output_dtype=dtype,
    )
    return out if bias is None else out + bias


def _transformer_engine(
    a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    from transformer_engine.pytorch.cpp_extensions import general_gemm

    out = general_gemm(_as_transformer_engine(b), _as_transformer_engine(a), out_dtype=dtype)[0]
    return out if bias is None else out + bias


def _as_transformer_engine(q: NVFP4Tensor) -> object:
    """Transformer Engine's tensor over the same codes.

    It reads a value as code * scale * amax / (6 * 448); another rule's full scale goes into amax.
    """
    import transformer_engine_torch
    from transformer_engine.pytorch import NVFP4Quantizer
    from transformer_engine.pytorch.tensor.storage.nvfp4_tensor_storage import NVFP4TensorStorage

    rows, cols = q.block_scales.shape
    padding = (0, -cols % TILE_COLS, 0, -rows % TILE_ROWS)
    return NVFP4TensorStorage(
        rowwise_data=q.codes,
        rowwise_scale_inv=F.pad(q.block_scales.view(torch.uint8), padding),
        columnwise_data=None,
        columnwise_scale_inv=None,
        amax_rowwise=(q.amax * (E2M1_MAX * E4M3_MAX / q.config.full_scale)).reshape(1),
        amax_columnwise=None,
        fp4_dtype=transformer_engine_torch.DType.kFloat4E2M1,
        quantizer=NVFP4Quantizer(),
        with_gemm_swizzled_scales=False,
    )


def _emulated(a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same sums in a wider GEMM: exact products in, float32 out, tensor scales afterwards."""
    left, right = _products(a), _products(b).t()
    out = torch.mm(left, right, out_dtype=torch.float32) if left.is_cuda else left @ right
    return _scaled(out, a, b, bias, dtype)


def _reference(a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    left = reference.dequantize(a.codes, a.block_scales, a.amax, a.config)
    right = reference.dequantize(b.codes, b.block_scales, b.amax, b.config)
    out = left @ right.t()
    return (out if bias is None else out + bias.float()).to(dtype)


def _products(q: NVFP4Tensor) -> Tensor:
    """Value times block scale: what ``q`` stands for if its amax were its full scale; exact."""
    unit = torch.full((), q.config.full_scale, dtype=torch.float32, device=q.device)
    dtype = torch.bfloat16 if q.device.type == "cuda" else torch.float32
    return decode(q.codes, q.block_scales, unit, q.config, dtype)


def _scaled(
    out: Tensor, a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    scale = _tensor_scales(a, out.shape[0]) * _tensor_scales(b, out.shape[1]).t()
    if bias is not None:
        return (out * scale + bias.float()).to(dtype)
    return torch.mul(out, scale, out=torch.empty(out.shape, dtype=dtype, device=out.device))


def _tensor_scales(q: NVFP4Tensor, rows: int) -> Tensor:
    """The scale of each row [rows, 1], or of them all [1, 1]."""
    one = q.amax.numel() == 1
    return decode_scale(q.amax.reshape(1, 1) if one else reference.spread(q.amax, rows), q.config)


def _prepare_decoded(b: NVFP4Tensor) -> Multiply:
    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, dequantize(b, x.dtype), bias)

    return multiply


def _prepare_reference(b: NVFP4Tensor) -> Multiply:
    weight = reference.dequantize(b.codes, b.block_scales, b.amax, b.config)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)

    return multiply


def _prepare_humming(b: NVFP4Tensor) -> Multiply:
    """Repack for humming's W4A16 GEMM, which reads the layout of ModelOpt: ours, and A / R."""
    from humming.layer import HummingLayer

    rows, half_cols = b.codes.shape
    layer = HummingLayer(
        shape_n=rows,
        shape_k=2 * half_cols,
        weight_config={"quant_method": "modelopt", "quant_algo": "nvfp4"},
        torch_dtype=torch.bfloat16,
    ).to(b.device)
    layer.load_from_tensors(
        {
            "weight": b.codes,
            "weight_scale": b.block_scales,
            "weight_scale_2": decode_scale(b.amax, b.config).reshape(1),
        }
    )
    layer.transform()

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        out = layer(x)
        return out if bias is None else out + bias

    return multiply


def _no_faster_with_many_rows(request: Request) -> str | None:
    return "it is no faster than decoding first where a product has thousands of rows"


MATMUL = Operation(
    "nvfp4.matmul",
    (
        Backend(
            name="cublas",
            run=_cublas,
            why_not=all_of(
                needs_compute_capability((10, 0)),
                needs_function("torch 2.10", ("torch.nn.functional", "scaled_mm")),
                needs_dtype(torch.bfloat16, torch.float16, torch.float32),
                _one_amax,
                _sizes(32, 16),
            ),
        ),
        Backend(
            name="transformer_engine",
            run=_transformer_engine,
            why_not=all_of(
                needs_compute_capability((10, 0)),
                needs_dtype(torch.bfloat16, torch.float32),
                _one_amax,
                _sizes(32, 16),
                _has_transformer_engine,
            ),
        ),
        Backend(name="emulated", run=_emulated, emulates=True),
        Backend(name="reference", run=_reference, emulates=True),
    ),
)
WEIGHT_MATMUL = Operation(
    "nvfp4.weight_matmul",
    (
        Backend(
            name="humming",
            run=_prepare_humming,
            why_not=all_of(
                needs_compute_capability((8, 0)),
                needs_dtype(torch.bfloat16),
                forward_only,
                _one_amax,
                _sizes(64, 64),
                needs_function("humming-kernels", ("humming.layer", "HummingLayer")),
            ),
            why_not_auto=_no_faster_with_many_rows,
        ),
        Backend(name="decode", run=_prepare_decoded),
        Backend(name="reference", run=_prepare_reference),
    ),
)
