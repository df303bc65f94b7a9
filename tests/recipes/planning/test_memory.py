"""Memory is what is measured: the pocket's on this CPU, and the 5B's as an H200 measured it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.nvfp4 import plan_conversion
from longlive_models import LongLivePipeline
from longlive_models.published import LONGLIVE_5B
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import UMT5_XXL
from longlive_models.vae import WAN22_VAE, WanVAE
from longlive_models.wan import POCKET, WAN_5B, WanTransformer
from longlive_recipes.planning.hardware import GIB, GPUS
from longlive_recipes.planning.memory import Choice, decoder_state, memory_of
from longlive_recipes.planning.sizes import (
    block_linear_parameters,
    counted,
    decoder_convolutions,
    sizes_of,
    umt5,
)
from tests.live_bytes import LiveBytes

PROMPT = "a red circle moves right on a navy background"
BF16 = Choice(weights="bf16", kv_cache="bf16", steps=4, guidance=False)


@pytest.fixture(scope="module")
def sizes():
    return sizes_of()


def test_parameters_are_those_of_the_modules():
    text = umt5(UMT5_XXL)
    assert text.numbers == 5_680_910_336
    assert text.numbers == text.table + 24 * text.layer + UMT5_XXL.dim
    for config in (WAN_5B, POCKET):
        with torch.device("meta"):
            model = WanTransformer(config)
        packed = plan_conversion(model).swapped
        named = dict(model.named_modules())
        blocks = [name for name in packed if name.startswith("blocks.")]
        assert block_linear_parameters(config) == sum(named[n].weight.numel() for n in blocks)
        assert config.parameters == sum(p.numel() for p in model.parameters())
        spec = replace(LONGLIVE_5B if config is WAN_5B else sizes_of("pocket").spec)
        held = counted("a model", spec)
        assert held.block_linears + held.rest == config.parameters
        inside = sum(p.numel() for p in model.blocks.parameters())
        assert held.block_linears + held.block_rest == inside


def test_the_decoders_convolutions_are_those_of_the_module(sizes):
    with torch.device("meta"):
        decoder = WanVAE(WAN22_VAE).decoder
    weights = [p.numel() for n, p in decoder.named_parameters() if p.ndim > 3 and "gamma" not in n]
    listed = list(decoder_convolutions(WAN22_VAE))
    taps = {4: 9}  # an upsampling's nine taps are merged to four
    counted = sum(one.channels * one.out * taps.get(one.taps, one.taps) for one in listed)
    attention = 4 * WAN22_VAE.decoder_dims[0] ** 2  # of the middle, on latents: not in the list
    assert counted + attention == sum(weights)


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(
    ("weights", "kv_cache", "gib"),
    [("bf16", "bf16", 49.4), ("fp8", "bf16", 44.8), ("nvfp4", "nvfp4", 36.3)],
)
def test_the_5bs_peak_is_within_a_tenth_of_an_h200s(sizes, weights, kv_cache, gib, text):
    """Measured by torch.cuda.max_memory_allocated without the text encoder, 8 latents at once; less
    the 3 GiB of the decoder's state, which was held twice then."""
    choice = Choice(weights=weights, kv_cache=kv_cache, steps=4, guidance=False, vae_latents=8)
    memory = memory_of(sizes, choice, GPUS["h200"])
    peak = memory.peak if text else memory.peak - memory.text_encoder
    expected = gib + (2 * 5_680_910_336 / GIB if text else 0)
    assert peak / GIB == pytest.approx(expected, rel=0.1)


def test_the_pockets_parts_are_those_of_this_cpu():
    pipe = LongLivePipeline.from_pretrained("pocket", device="cpu")
    choice = Choice(weights="fp32", kv_cache="fp32", steps=4, guidance=False)
    said = memory_of(sizes_of("pocket"), choice, GPUS["cpu"])
    for part, count in (("transformer", said.transformer), ("vae", said.vae)):
        module = getattr(pipe, part)
        assert sum(p.nbytes for p in module.parameters()) == count
    with LiveBytes() as cache:
        generator = pipe.generator([0], pipe.settings)
    assert cache.now == said.cache
    plan = pipe.plan(PROMPT, seconds=20)
    block = generator.generate(0, [plan.block(0)])
    with torch.no_grad():
        _, state = pipe.vae.decode_block(block.latents)
        with LiveBytes() as decoding:
            pipe.vae.decode_block(block.latents, state)
    assert state.bytes == said.decoder_state
    made = said.decoding + said.decoder_state  # the old state was there before
    assert decoding.peak == pytest.approx(made, rel=0.15)
    with LiveBytes() as denoising:
        generator.generate(1, [plan.block(1)])
    assert denoising.peak == pytest.approx(said.denoising, rel=0.15)


@given(
    weights=st.sampled_from(["fp32", "bf16", "fp8", "nvfp4"]),
    ranks=st.integers(1, 4),
    guidance=st.booleans(),
    apart=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_less_is_never_more(weights, ranks, guidance, apart):
    sizes, gpu = sizes_of(), GPUS["h200"]
    choice = Choice(
        weights=weights,
        kv_cache="bf16",
        steps=4,
        guidance=guidance,
        ranks=ranks,
        decode_apart=apart,
    )

    def peak(**changed) -> int:
        return memory_of(sizes, replace(choice, **changed), gpu).peak

    assert peak() >= peak(kv_cache="fp8") >= peak(kv_cache="nvfp4")
    assert peak(weights="fp32") >= peak() >= peak(weights="nvfp4")
    assert peak(guidance=True) >= peak() >= peak(ranks=ranks + 1)
    assert peak(image=(352, 640)) < peak()
    assert peak() >= peak(decode_apart=True)


@given(
    latents=st.sampled_from([0, 1, 2, 8]),
    tiles=st.sampled_from([1, 2]),
    offload=st.booleans(),
    place=st.sampled_from(["device", "offload", "cpu"]),
    weights=st.sampled_from(["bf16", "fp8", "nvfp4"]),
)
@settings(max_examples=25, deadline=None)
def test_every_saving_saves(latents, tiles, offload, place, weights):
    sizes, gpu = sizes_of(), GPUS["4090"]
    choice = Choice(
        weights=weights,
        kv_cache="bf16",
        steps=4,
        guidance=False,
        vae_latents=latents,
        vae_tiles=tiles,
        offload=offload,
        text_encoder=place,
    )

    def memory(**changed):
        return memory_of(sizes, replace(choice, **changed), gpu)

    peak = memory().peak
    assert peak >= memory(vae_latents=1).peak
    assert memory(vae_latents=8).peak > memory(vae_latents=8, vae_tiles=2 * tiles).peak
    assert memory(offload=False).peak > memory(offload=True).peak
    assert memory(text_encoder="device").peak > memory(text_encoder="offload").peak
    assert memory(text_encoder="offload").peak >= memory(text_encoder="cpu").peak
    assert memory(videos=3).peak - peak == 2 * (memory().cache + memory().text) + 2 * (
        memory().decoder_state
    )
    waiting = memory(offload=True).host
    assert memory(offload=False).host == 0 < waiting
    there = memory(offload=True).transformer - sizes_bytes_outside(sizes)
    assert there == pytest.approx(2 * waiting / 30, rel=1e-6)


def sizes_bytes_outside(sizes) -> int:
    """Of the transformer's weights in bf16, those outside its blocks."""
    return 2 * (sizes.rest - sizes.block_rest)


def test_what_waits_is_what_the_pipeline_holds():
    """Of the pocket, blocks that visit: two on the device, all of them on the host."""
    options = RuntimeOptions(device="cpu", weights="bf16", offload=True, text_encoder="offload")
    pipe = LongLivePipeline.load("pocket", Runtime.choose(options))
    choice = Choice(
        weights="bf16",
        kv_cache="fp32",
        steps=8,
        guidance=True,
        offload=True,
        text_encoder="offload",
    )
    gpu = replace(GPUS["4090"], gpu=False)  # in float32, as here
    said, whole = (
        memory_of(sizes_of("pocket"), c, gpu) for c in (choice, replace(choice, offload=False))
    )
    model = pipe.transformer
    blocks = sum(p.nbytes for p in model.blocks.parameters())
    assert whole.transformer - said.transformer == pytest.approx(
        blocks - 2 * blocks / len(model.blocks), rel=1e-3
    )
    assert model.offload.device_bytes == pytest.approx(2 * blocks / len(model.blocks), rel=0.01)
    assert said.text_encoder == 0


def test_parts_add_up(sizes):
    memory = memory_of(sizes, BF16, GPUS["h100"])
    assert sum(memory.parts().values()) == memory.peak
    assert memory.held < memory.peak


def test_a_state_of_two_frames_a_convolution(sizes):
    assert decoder_state(sizes) * 2 / GIB == pytest.approx(3.0, rel=0.02)


def test_attention_in_eight_bits_has_windows_beside_plain_pages(sizes):
    """Where a card has it; encoded pages are there to save memory, and have none."""
    high = replace(BF16, quality="high")
    pages = memory_of(sizes, BF16, GPUS["h200"]).cache
    assert memory_of(sizes, high, GPUS["h200"]).cache == pages * 3 // 2
    assert memory_of(sizes, high, GPUS["4090"]).cache == pages
    for kv_cache in ("fp8", "nvfp4"):
        encoded = replace(BF16, kv_cache=kv_cache)
        found = memory_of(sizes, replace(encoded, quality="high"), GPUS["h200"])
        assert found.cache == memory_of(sizes, encoded, GPUS["h200"]).cache
