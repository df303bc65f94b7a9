"""A model is packed from its files one layer at a time: what it takes is counted, not believed."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule, convert_linears, quantize_weight
from longlive_core.testing import assert_bitwise_equal
from longlive_models.checkpoints.folder import save_part
from longlive_models.checkpoints.nvfp4 import PackedConfig
from longlive_models.checkpoints.nvfp4_packing import pack_model_folder
from longlive_models.wan import WAN_5B, WanTransformer
from tests.models.tiny_pipeline import SPEC, write_tiny_folder

MSE = PackedConfig(weight=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="counts the memory of a GPU")
DEEP = replace(SPEC.transformer, dim=128, ffn_dim=256, num_layers=8)


def peak_of_allocations(run, *, mapped: int) -> int:
    """The most bytes that tensors on the CPU held at one time, beyond those that they held before.

    A file of ``mapped`` bytes that is mapped takes addresses, not memory.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]" and abs(event.nbytes()) != mapped
    ]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def test_packing_holds_one_layer_and_what_is_not_yet_written(tmp_path):
    source = write_tiny_folder(tmp_path / "model")
    model = WanTransformer(DEEP)
    save_part(source / "transformer", DEEP.to_dict(), model.bfloat16().state_dict())
    plain = sum(p.nbytes for p in model.parameters())
    largest = max(p.nbytes for p in model.parameters())
    held = {}

    def pack() -> None:
        made = pack_model_folder(source, tmp_path / "out", MSE, file_bytes=plain // 20)
        held["packed"] = made.report.bytes_after

    (file,) = (source / "transformer").glob("*.safetensors")
    peak = peak_of_allocations(pack, mapped=file.stat().st_size)
    assert peak < largest + held["packed"] < 0.5 * plain


def test_a_weight_is_never_whole_beside_its_codes_on_its_way_to_a_device():
    """``cpu:0`` stands for a GPU: another device than ``cpu``, so that weights are copied to it."""
    weight, config = torch.randn(8192, 512).bfloat16(), MSE.weight
    held = {}

    def pack() -> None:
        held["packed"] = quantize_weight(weight, config, rows=16, device="cpu:0")

    peak = peak_of_allocations(pack, mapped=-1)
    assert weight.nbytes < peak < weight.nbytes + held["packed"].bytes
    want = quantize_weight(weight, config)
    for name, tensor in held["packed"].tensors().items():
        assert_bitwise_equal(tensor, want.tensors()[name], name)


@pytest.mark.gpu
@GPU
def test_quantizing_the_5b_on_a_gpu_takes_its_largest_layer_and_the_packed_model():
    """Block after block, as from files: weights come from the CPU one at a time."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.zeros(1, device="cuda")  # before the first tensor there are no statistics
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    packed, largest, blocks = 0, WAN_5B.dim * WAN_5B.ffn_dim * 2, []
    sizes = [(WAN_5B.dim, WAN_5B.dim)] * 8
    sizes += [(WAN_5B.dim, WAN_5B.ffn_dim), (WAN_5B.ffn_dim, WAN_5B.dim)]
    first = nn.Sequential(*(nn.Linear(*size, dtype=torch.bfloat16) for size in sizes))
    for _ in range(WAN_5B.num_layers):
        block = copy.deepcopy(first)  # numbers drawn anew would take minutes
        packed += convert_linears(block, device="cuda").bytes_after
        blocks.append(block)
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
    assert peak - before < largest + packed
