"""Packed matrices that other libraries wrote themselves, read; and ours, read by them.

Each is skipped where its package is not installed; ``test_external_formats`` has the documented
layouts, which are always tested.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longlive_core.nvfp4 import NVFP4Tensor, QuantizeConfig, ScaleRule, dequantize, quantize
from longlive_core.nvfp4.external_formats import CONVENTIONS

RULES = [ScaleRule.AMAX_6, ScaleRule.FOUR_OVER_SIX_MSE]


def matrix(rows: int = 48, cols: int = 128) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(3))


def ours(rule: ScaleRule) -> NVFP4Tensor:
    return quantize(matrix(), QuantizeConfig(rule=rule))


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


def test_what_comfy_kitchen_writes_is_read():
    layout = package("comfy_kitchen.tensor").TensorCoreNVFP4Layout
    data, parameters = layout.quantize(matrix())
    names = {"": "weight", "_scale": "weight_scale", "_scale_2": "weight_scale_2"}
    tensors = {names[k]: v for k, v in layout.state_dict_tensors(data, parameters).items()}
    tensors["comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    back = CONVENTIONS["comfyui"].read(tensors)
    want = layout.dequantize(data, parameters)
    torch.testing.assert_close(dequantize(back), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_comfy_kitchen_reads_what_is_written(rule):
    layout = package("comfy_kitchen.tensor").TensorCoreNVFP4Layout
    tensors = CONVENTIONS["comfyui"].write(ours(rule))
    parameters = layout.Params(
        scale=tensors["weight_scale_2"],
        orig_dtype=torch.float32,
        orig_shape=(48, 128),
        block_scale=tensors["weight_scale"],
    )
    got = layout.dequantize(tensors["weight"], parameters)
    torch.testing.assert_close(got, dequantize(ours(rule)), rtol=1e-6, atol=0)


def mlx_array(tensor: Tensor) -> Any:
    return package("mlx.core").array(tensor.numpy())


@pytest.mark.parametrize("with_global", [False, True])
def test_what_mlx_writes_is_read(with_global):
    mx = package("mlx.core")
    how: dict[str, Any] = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    if with_global:
        how["global_scale"] = mx.array(float(matrix().abs().max()))
    words, scales = mx.quantize(mlx_array(matrix()), **how)
    tensors = {
        "weight": torch.from_numpy(np.array(words)),
        "scales": torch.from_numpy(np.array(scales)),
    }
    if with_global:
        tensors["global_scale"] = torch.tensor(float(how["global_scale"]))
    back = CONVENTIONS["mlx"].read(tensors)
    want = torch.from_numpy(np.array(mx.dequantize(words, scales, dtype=mx.float32, **how)))
    torch.testing.assert_close(dequantize(back), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_mlx_reads_what_is_written(rule):
    mx = package("mlx.core")
    tensors = CONVENTIONS["mlx"].write(ours(rule))
    got = mx.dequantize(
        mlx_array(tensors["weight"]),
        mlx_array(tensors["scales"]),
        group_size=16,
        bits=4,
        mode="nvfp4",
        global_scale=mlx_array(tensors["global_scale"]),
        dtype=mx.float32,
    )
    want = dequantize(ours(rule))
    torch.testing.assert_close(torch.from_numpy(np.array(got)), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_gguf_reads_what_is_written(rule):
    """The package decodes NVFP4 and does not encode it."""
    gguf = package("gguf")
    tensors = CONVENTIONS["gguf"].write(ours(rule))
    got = gguf.quants.dequantize(tensors["blocks"].numpy(), gguf.GGMLQuantizationType.NVFP4)
    got = torch.from_numpy(got) * tensors["scale"]
    torch.testing.assert_close(got, dequantize(ours(rule)), rtol=1e-6, atol=0)


@pytest.fixture
def compressor() -> Any:
    return package("compressed_tensors.compressors.nvfp4.base").NVFP4PackedCompressor


def scheme() -> Any:
    quantization = package("compressed_tensors.quantization")
    return quantization.preset_name_to_scheme("NVFP4A16", ["Linear"])


def test_what_compressed_tensors_writes_is_read(compressor):
    weight = matrix()
    scale = (448 * 6 / weight.abs().max()).reshape(1)
    blocks = weight.view(48, 8, 16).abs().amax(-1)
    local = (blocks / 6 * scale).to(torch.float8_e4m3fn)
    state = {
        "weight": weight,
        "weight_scale": local.float(),
        "weight_global_scale": scale,
    }
    packed = compressor.compress(state, scheme())
    back = CONVENTIONS["compressed_tensors"].read(
        {k: packed[k] for k in ("weight_packed", "weight_scale", "weight_global_scale")}
    )
    want = compressor.decompress(packed, scheme())["weight"].float()
    torch.testing.assert_close(dequantize(back), want, rtol=1e-2, atol=1e-3)  # theirs is bfloat16


@pytest.fixture
def modelopt() -> Callable[..., Any]:
    return package("modelopt.torch.quantization.qtensor").NVFP4QTensor


def test_what_modelopt_writes_is_read(modelopt):
    packed, scales, scale = modelopt.quantize(matrix(), 16)
    tensors = {
        "weight": packed._quantized_data,
        "weight_scale": scales,
        "weight_scale_2": scale.float(),
    }
    back = CONVENTIONS["modelopt"].read(tensors)
    want = packed.dequantize(torch.float32, scale=scales, double_scale=scale, block_sizes={-1: 16})
    torch.testing.assert_close(dequantize(back), want, rtol=1e-6, atol=0)
