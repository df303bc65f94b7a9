"""What a steady block is compared and timed by: the same bytes again, and a fault has no time."""

from dataclasses import replace

import pytest
import torch

from longlive_models.wan import POCKET, WanTransformer
from longlive_recipes.bench.fused_block import SteadyBlock, compare_attention, compare_kernels
from longlive_recipes.bench.shared_sizes import randomize_zero_layers

CPU = torch.device("cpu")
SMALL = replace(
    POCKET, dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=8, text_len=4, freq_dim=16
)


def test_each_operation_is_compared_with_what_it_means_and_timed():
    found = compare_kernels(SMALL, 2, 3, CPU, fused="reference")
    assert len(found) == 8
    for row in found.values():
        assert row.problem is None and row.error == 0
        assert row.torch_ms is not None and row.fused_ms is not None and row.fused_ms > 0


def test_what_cannot_run_or_is_wrong_has_no_time(monkeypatch):
    found = compare_kernels(SMALL, 2, 3, CPU, fused="triton")
    row = found["norm, rotation"]
    assert row.problem is not None and "it needs a CUDA device" in row.problem
    assert row.fused_ms is None
    wrong = lambda x, y, gate, after, eps, encode: (x, x + 1)  # noqa: E731
    monkeypatch.setattr("longlive_core.fused.norm_ops._implementation", lambda *asked: wrong)
    monkeypatch.setattr(
        "longlive_recipes.bench.fused_block.norm",
        lambda x, after, *, eps, backend: x + (backend == "torch"),
    )
    row = compare_kernels(SMALL, 2, 3, CPU, fused="torch")["norm, modulation"]
    assert row.problem == f"{2 * 3 * 32} numbers have other bits than the reference's"
    assert row.torch_ms is None


def test_every_backend_of_attention_has_its_row():
    rows = compare_attention(SMALL, 8, 16, CPU)
    assert rows["sdpa"]["error"] < 0.01 and rows["sdpa"]["ms"] > 0
    assert rows["fa3-fp8"] == {"problem": "it needs a CUDA device, not cpu"}


@pytest.mark.parametrize("fused", ["auto", "reference"])
def test_a_steady_block_is_made_again_with_the_same_bytes(fused):
    torch.manual_seed(0)
    model = WanTransformer(SMALL)
    randomize_zero_layers(model)
    model.to(torch.bfloat16).eval().requires_grad_(False)
    model.set_quality("lossless", fused=fused)
    block = SteadyBlock(model, (4, 4), steps=2, pages=3)
    first, again = block.bytes(), block.bytes()
    assert len(first) == 1 + 2 * SMALL.num_layers
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(block.run(), first[0])
    assert block.seconds(1) > 0
