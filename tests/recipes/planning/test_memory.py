"""Memory is what is measured: the pocket's on this CPU, and the 5B's as an H200 measured it."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

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
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
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
    assert sum(memory.parts().values()) == memory.needed > memory.peak
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


def test_windows_in_eight_bits_are_of_the_block_that_is_made(sizes):
    """Open videos make their blocks in turn: each has pages, and windows are there once."""
    high, three = replace(BF16, quality="high"), replace(BF16, quality="high", videos=3)
    pages = memory_of(sizes, BF16, GPUS["h200"]).cache
    windows = memory_of(sizes, high, GPUS["h200"]).cache - pages
    assert memory_of(sizes, three, GPUS["h200"]).cache == 3 * pages + windows


def test_fragments_are_of_the_decoders_widest_input_and_its_copy_behind_the_past(sizes):
    """One latent at a time they are four frames of 512 channels at 352x640, and six of them."""
    alone = replace(BF16, vae_latents=1)
    memory = memory_of(sizes, alone, GPUS["h200"])
    assert memory.fragments == (4 + 6) * 512 * 352 * 640 * 2
    assert memory.needed == memory.peak + memory.fragments
    two = memory_of(sizes, replace(alone, vae_latents=2), GPUS["h200"]).fragments
    assert two == (8 + 10) * 512 * 352 * 640 * 2
    tiles = [
        memory_of(sizes, replace(alone, vae_tiles=count), GPUS["h200"]).fragments
        for count in (1, 2, 4, 8)
    ]
    assert all(0 < few < many for many, few in itertools.pairwise(tiles))
    for how in ({"beside": False}, {"decode_apart": True}):
        other = memory_of(sizes, replace(alone, **how), GPUS["h200"])
        assert other.fragments == 0 and other.needed == other.peak
    assert memory_of(sizes, alone, GPUS["cpu"]).fragments == 0


MEASURED = json.loads((RESULTS / "max_memory.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row['size']} GB, fits: {row['fits']}")
def test_what_ended_for_want_of_memory_is_not_said_to_fit_and_what_fit_is(sizes, row):
    """On an H200 whose allocator had so much: with segments that expand, nothing is lost."""
    options = " ".join(row["picked"])
    tiles = re.search(r"--vae-tiles (\d)", options)
    latents = re.search(r"--vae-latents (\d)", options)
    cache = re.search(r"--kv-cache (\w+)", options)
    choice = replace(
        BF16,
        kv_cache=cache[1] if cache else "bf16",
        vae_latents=int(latents[1]) if latents else 2,
        vae_tiles=int(tiles[1]) if tiles else 1,
        offload=True,
        text_encoder="offload",
        beside="--lane inline" not in options,
    )
    said = memory_of(sizes, choice, GPUS["h200"])
    assert said.peak == row["said"]
    if not row["fits"]:
        assert said.needed > row["usable"]
    else:
        assert 0.92 * said.peak < row["peak"] < said.peak
    if "needed" in row:
        assert row["peak"] < row["reserved"] <= row["usable"]
        assert said.needed == row["needed"] <= row["usable"]
