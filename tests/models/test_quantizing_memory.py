"""Four bits hold one decoded layer at a time, while a model is loaded and while it runs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from longlive_core import float8, nvfp4
from longlive_models.placing import place_transformer
from longlive_models.precision import set_precision
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import WanTransformer
from tests.live_bytes import LiveBytes
from tests.models.tiny_pipeline import SPEC

DEEP = replace(SPEC.transformer, dim=128, ffn_dim=512, num_layers=6)
LARGEST = 128 * 512


def loaded() -> WanTransformer:
    """A model in bfloat16, as it is mapped from its file."""
    torch.manual_seed(0)
    model = WanTransformer(DEEP)
    nn.init.normal_(model.head.head.weight)  # zero at first
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def on_cpu(**how) -> Runtime:
    return Runtime.choose(RuntimeOptions(device="cpu", **how))


def most(run: Callable[[], object]) -> int:
    """The bytes that a run holds at its peak beside those that it leaves."""
    with LiveBytes() as count:
        kept = run()
        left = count.now
    del kept
    return count.peak - left


@pytest.mark.parametrize("offload", [False, True])
def test_a_model_is_quantized_one_layer_at_a_time(offload):
    model, runtime = loaded(), on_cpu(weights="nvfp4", offload=offload)
    plain = sum(p.nbytes for p in model.blocks.parameters())
    beside = most(lambda: set_precision(model, runtime))
    assert beside <= 4 * LARGEST * 3, "some rows of a layer at a time, in float32"
    assert beside < plain / 4
    packed = sum(t.nbytes for t in (*model.blocks.parameters(), *model.blocks.buffers()))
    assert packed < plain / 2
    outside = sum(p.nbytes for p in model.parameters()) - sum(
        p.nbytes for p in model.blocks.parameters()
    )
    block = packed // 6
    beside = most(lambda: place_transformer(model, runtime))
    assert beside <= 4 * outside + 2 * block + 4 * LARGEST, "no block is decoded where it is put"
    assert all(isinstance(block.ffn[0], nvfp4.NVFP4Linear) for block in model.blocks)


@pytest.mark.parametrize("weights", ["fp8", "bf16"])
def test_a_packed_model_is_decoded_one_layer_at_a_time_for_other_precisions(weights):
    """For eight bits where each is made of it, for plain weights where they wait in bfloat16."""
    model = loaded()
    set_precision(model, on_cpu(weights="nvfp4"))
    whole = 4 * sum(p.numel() for p in WanTransformer(DEEP).blocks.parameters())
    runtime = on_cpu(weights=weights)
    if weights == "bf16":  # as with a GPU, and blocks that wait on the host
        runtime = replace(runtime, device=torch.device("meta"), offload=True)
    beside = most(lambda: set_precision(model, runtime))
    assert beside <= 4 * LARGEST * 3 < whole / 6
    layer = model.blocks[0].ffn[0]
    kind = nn.Linear if weights == "bf16" else float8.Float8Linear
    assert type(layer) is kind
    if weights == "bf16":
        assert layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu"


def test_a_pass_decodes_one_layer_at_a_time():
    """Beside the pass of the same model in plain numbers: one decoded weight, and no more."""
    latents, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 1, 8, 16)
    times = torch.full((1, 2), 500.0)

    def peak(weights: str) -> tuple[int, Tensor]:
        model, runtime = loaded(), on_cpu(weights=weights)
        set_precision(model, runtime)
        place_transformer(model, runtime)
        with torch.no_grad(), LiveBytes() as count:
            out = model(latents, times, text)
        return count.peak, out

    (plain, exact), (packed, rounded) = peak("fp32"), peak("nvfp4")
    assert not torch.equal(exact, rounded)
    decoded = 4 * LARGEST  # on a CPU in float32
    assert packed - plain <= 2.5 * decoded, "one weight, and what its codes become on the way"
    linears = sum(isinstance(one, nn.Linear) for one in WanTransformer(DEEP).blocks.modules())
    assert packed < linears * decoded / 10
