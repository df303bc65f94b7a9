"""What layers say that they run on a GPU, and that it is right: these need one."""

import pytest
import torch
from torch import nn

from longlive_core import float8
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4Linear,
    NVFP4TrainingLinear,
    QuantizeConfig,
    ScaleRule,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU what it runs"),
]
MSE = QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE)
FOUR_BIT_GPU = (10, 0)


def linear(inputs=256, outputs=384) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).cuda().bfloat16()


def inputs() -> torch.Tensor:
    return torch.randn(33, 256, device="cuda", dtype=torch.bfloat16)


@pytest.mark.parametrize("activation", [None, MSE])
def test_a_frozen_layer_runs_what_its_receipts_say(activation):
    layer = NVFP4Linear.from_linear(linear(), LinearConfig(activation=activation))
    chosen = {receipt.operation: receipt.backend for receipt in layer.receipts()}
    if activation is None:
        assert chosen == {"nvfp4.weight_matmul": "decode", "nvfp4.dequantize": "triton"}
    else:
        has_hardware = torch.cuda.get_device_capability() >= FOUR_BIT_GPU
        assert chosen["nvfp4.quantize"] == "triton"
        assert (chosen["nvfp4.matmul"] == "emulated") != has_hardware
    x = inputs()
    on_cpu = NVFP4Linear.from_linear(
        linear().cpu().float(), LinearConfig(activation=activation, backend="reference")
    )
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer.cpu(), on_cpu.get_buffer(name)), name
    torch.testing.assert_close(
        layer(x).cpu().float(), on_cpu(x.cpu().float()), rtol=2e-2, atol=2e-2
    )


@torch.no_grad()
def test_a_repacked_weight_s_product_is_the_decoded_one_s():
    pytest.importorskip("humming.layer", reason="humming-kernels is not installed")
    decoded, repacked = (
        NVFP4Linear.from_linear(linear(), LinearConfig(backend=name))
        for name in ("decode", "humming")
    )
    repacked.prepare()
    assert repacked.receipts()[0].backend == "humming"
    for rows in (1, 33, 300):
        x = torch.randn(rows, 256, device="cuda", dtype=torch.bfloat16)
        torch.testing.assert_close(repacked(x), decoded(x), rtol=2e-2, atol=1e-2)


def test_a_training_layer_s_receipts():
    layer = NVFP4TrainingLinear.from_linear(linear())
    quantizing, product = layer.receipts()
    assert quantizing.backend == "triton"
    has_hardware = torch.cuda.get_device_capability() >= FOUR_BIT_GPU
    assert (product.backend == "emulated") != has_hardware


def test_eight_bits_run_in_hardware_where_there_is_some():
    layer = float8.Float8Linear.from_linear(linear())
    rounding, product = layer.receipts()
    assert rounding.backend == "triton"
    has_hardware = torch.cuda.get_device_capability() >= (8, 9)
    assert (product.backend == "scaled_mm") == has_hardware
    x = inputs()
    want = float8.dequantize(float8.quantize(x)) @ float8.dequantize(layer.weight).t() + layer.bias
    torch.testing.assert_close(layer(x).float(), want.float(), rtol=2e-2, atol=2e-2)
