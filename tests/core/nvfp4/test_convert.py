"""Converting a model: what is swapped, what is kept, and the way back."""

import pytest
import torch
from torch import nn

from longlive_core.module_swap import KEEP, receipts
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4Linear,
    NVFP4TrainingLinear,
    QuantizeConfig,
    TrainingConfig,
    convert_linears,
    decode_linears,
    dequantize,
    quantize,
)
from longlive_core.nvfp4.convert import plan_conversion, why_not_convert


def model() -> nn.Module:
    net = nn.Module()
    net.time_embedding = nn.Sequential(nn.Linear(32, 32))
    net.blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32)) for _ in range(2)
    )
    net.odd = nn.Linear(20, 32)
    net.head = nn.Linear(32, 32)
    return net


NAMES = ("blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.1.1")


def test_the_report_says_what_was_done():
    net = model()
    report = convert_linears(net)
    assert report.swapped == NAMES
    assert report.kept == {
        "time_embedding.0": "as 'time_embedding' says",
        "odd": "its sizes 20 and 32 are not both divisible by 16, the width of a block",
        "head": "as 'head' says",
    }
    packed = 2 * 64 * 32 * 9 // 16 + 2 * (4 + 7 * 4)  # codes and scales; amax and format
    assert report.bytes_before - report.bytes_after == 2 * (2 * 64 * 32 * 4 - packed)
    assert all(isinstance(net.get_submodule(name), NVFP4Linear) for name in NAMES)
    assert tuple(receipts(net)) == NAMES


def test_training_linears_share_the_parameters_and_can_be_packed_afterwards():
    net = model()
    weight = net.blocks[0][0].weight
    report = convert_linears(net, TrainingConfig(), keep=(*KEEP, "blocks.1"))
    assert report.swapped == NAMES[:2]
    assert isinstance(net.blocks[0][0], NVFP4TrainingLinear)
    assert net.blocks[0][0].weight is weight
    assert report.bytes_before == report.bytes_after
    convert_linears(net)
    assert isinstance(net.blocks[0][0], NVFP4Linear)
    assert torch.equal(
        dequantize(net.blocks[0][0].weight),
        dequantize(quantize(weight.detach(), LinearConfig().weight)),
    )


def test_a_training_linear_is_not_converted_again():
    net = model()
    convert_linears(net, TrainingConfig())
    report = convert_linears(net, TrainingConfig())
    assert report.swapped == ()
    assert report.kept["blocks.0.0"] == (
        "it is a NVFP4TrainingLinear, which may compute something else"
    )


def test_the_config_reaches_every_layer():
    net = model()
    config = LinearConfig(activation=QuantizeConfig())
    convert_linears(net, config, keep=("odd",), reduce_amax=torch.abs)
    assert net.head.config == config
    assert net.head.reduce_amax is torch.abs


def test_decoding_gives_the_values_back():
    net = model()
    convert_linears(net)
    want = dequantize(net.blocks[1][0].weight, torch.bfloat16)
    report = decode_linears(net, torch.bfloat16)
    assert report.swapped == NAMES
    assert type(net.blocks[1][0]) is nn.Linear
    assert torch.equal(net.blocks[1][0].weight, want)
    assert not any(isinstance(module, NVFP4Linear) for module in net.modules())


@pytest.mark.parametrize("config", [None, TrainingConfig()])
def test_a_state_dict_of_a_converted_model_goes_into_another(config):
    one, other = model(), model()
    convert_linears(one, config)
    convert_linears(other, config)
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 32)
    assert torch.equal(one.blocks[0](x), other.blocks[0](x))


def test_both_sizes_are_whole_blocks():
    for sizes in ((16, 16), (32, 48), (1600, 16)):
        assert why_not_convert(nn.Linear(*sizes)) is None
    for sizes in ((16, 8), (8, 16), (17, 16), (16, 31), (40, 40)):
        message = f"its sizes {sizes[0]} and {sizes[1]} are not both divisible by 16"
        assert why_not_convert(nn.Linear(*sizes)).startswith(message)


def test_a_plan_is_what_a_conversion_does_and_changes_nothing():
    with torch.device("meta"):
        net = model()
    plan = plan_conversion(net)
    assert tuple(plan.swapped) == NAMES
    assert not any(isinstance(module, NVFP4Linear) for module in net.modules())
    assert plan.kept == convert_linears(model()).kept
    kept = plan_conversion(net, keep=("blocks.0", "head", "time_embedding"))
    assert tuple(kept.swapped) == NAMES[2:]


def test_decoding_changes_packed_linears_alone_and_keeps_their_mode():
    net = model().eval()
    convert_linears(net, keep=(*KEEP, "blocks.1"))
    others = (net.odd, net.head, net.blocks[1][0])
    assert decode_linears(net, torch.float32).swapped == NAMES[:2]
    assert (net.odd, net.head, net.blocks[1][0]) == others
    assert not net.blocks[0][0].training
    assert net.blocks[0][0].weight.dtype == torch.float32


def test_training_linears_are_moved_to_the_device_that_is_named():
    net = model()
    linear = net.blocks[0][0]
    convert_linears(net, TrainingConfig(), device="meta")
    assert linear.weight.is_meta and net.blocks[0][0].weight.is_meta
    assert not net.head.weight.is_meta
