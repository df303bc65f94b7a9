"""Seconds are those that an H200 measured, and go with rates, steps, window and ranks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from longlive_recipes.planning.hardware import GIB, GPUS
from longlive_recipes.planning.memory import Choice, memory_of
from longlive_recipes.planning.sizes import sizes_of
from longlive_recipes.planning.speed import speed_of

BF16 = Choice(weights="bf16", kv_cache="bf16", steps=4, guidance=False)
H200 = GPUS["h200"]


@pytest.fixture(scope="module")
def sizes():
    return sizes_of()


RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def record(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("lossless", {}),
        ("fp8", {"weights": "fp8"}),
        ("high", {"weights": "fp8", "quality": "high"}),
    ],
)
def test_a_block_of_the_5b_takes_what_an_h200_took(sizes, path, how):
    took = record("5b_fused_block.json")["paths"][path]["seconds"]
    assert speed_of(sizes, replace(BF16, **how), H200).block == pytest.approx(took, rel=0.03)


@pytest.mark.parametrize(
    ("pieces", "latents", "tiles"),
    [
        ("fused, 8", 8, 1),
        ("fused, 2", 0, 1),
        ("fused, 1", 1, 1),
        ("fused, 1, on 2 tiles", 1, 2),
        ("fused, 1, on 4 tiles", 1, 4),
    ],
)
def test_decoding_a_block_takes_what_an_h200_took(sizes, pieces, latents, tiles):
    """Undisturbed: the fastest of the record's calls, with which a whole video agrees."""
    took = record("5b_vae_pieces.json")["decoding"][pieces]["fastest"]
    choice = replace(BF16, vae_latents=latents, vae_tiles=tiles)
    assert speed_of(sizes, choice, H200).decoding == pytest.approx(took, rel=0.05)


@pytest.mark.parametrize("choice", record("5b_plan.json")["choices"])
def test_whole_videos_take_what_an_h200_took(sizes, choice):
    """Denoising and decoding in turn, and both at once, which takes most of their sum."""
    took = record("5b_plan.json")["choices"][choice]
    weights, kv_cache = choice.split(", ")
    said = speed_of(sizes, replace(BF16, weights=weights, kv_cache=kv_cache), H200)
    assert said.block == pytest.approx(took["block"], rel=0.08)
    assert said.decoding == pytest.approx(took["decoding"], rel=0.03)
    assert said.together == pytest.approx(took["together"], rel=0.04)
    peak = memory_of(sizes, replace(BF16, weights=weights, kv_cache=kv_cache), H200)
    without_text = (peak.peak - peak.text_encoder) / GIB
    assert without_text == pytest.approx(took["said_gib"], abs=0.06)
    assert took["peak_gib"] <= without_text <= 1.08 * took["peak_gib"]


def test_beside_each_other_both_take_less_than_their_sum(sizes):
    beside = speed_of(sizes, BF16, H200)
    both = beside.block + beside.decoding
    assert max(beside.block, beside.decoding) < beside.together < both
    assert beside.frames_per_second == pytest.approx(32 / beside.together)
    in_turn = speed_of(sizes, replace(BF16, beside=False), H200)
    assert in_turn.together == pytest.approx(both)
    apart = speed_of(sizes, replace(BF16, decode_apart=True), H200)
    assert apart.together == pytest.approx(max(both - beside.block, beside.block))


def test_eight_bits_are_no_faster_where_attention_has_none(sizes):
    high = replace(BF16, quality="high")
    for name, gpu in GPUS.items():
        faster = speed_of(sizes, high, gpu).block < speed_of(sizes, BF16, gpu).block
        assert faster is gpu.fp8_attention, name


def test_the_pocket_takes_what_an_h200_took():
    """benchmarks/results/generation_cuda.json: 0.151 s a block, 226 frames a second."""
    choice = replace(BF16, steps=8, guidance=True)
    speed = speed_of(sizes_of("pocket"), choice, H200)
    assert speed.block == pytest.approx(0.151, rel=0.25)
    assert speed.frames_per_second == pytest.approx(226, rel=0.25)


def test_the_pocket_takes_what_two_cores_took():
    """benchmarks/results/pocket_generation.json: 2.0 and 2.4 s a block, 5 s of video in 7.8 s."""
    choice = Choice(weights="fp32", kv_cache="fp32", steps=8, guidance=True)
    speed = speed_of(sizes_of("pocket"), choice, GPUS["cpu"])
    assert speed.block == pytest.approx(2.39, rel=0.5)
    assert speed.frames_per_second == pytest.approx(9.6, rel=0.5)


def test_seconds_go_with_what_is_done(sizes):
    plain = speed_of(sizes, BF16, H200)
    two = speed_of(sizes, replace(BF16, steps=2), H200)
    assert two.block == pytest.approx(plain.block * 3 / 5)  # two steps and a clean pass of four
    guided = speed_of(sizes, replace(BF16, guidance=True), H200)
    assert guided.block == pytest.approx(2 * plain.block)
    assert plain.first_block < plain.block
    apart = speed_of(sizes, replace(BF16, decode_apart=True), H200)
    assert apart.frames_per_second > 1.4 * plain.frames_per_second
    smaller = speed_of(sizes, replace(BF16, image=(352, 640)), H200)
    assert smaller.decoding == pytest.approx(plain.decoding / 4, rel=0.01)
    assert smaller.block < 0.4 * plain.block  # and no less than starting its operations takes
    assert speed_of(sizes, BF16, GPUS["b200"]).block < plain.block
    assert speed_of(sizes, BF16, GPUS["4090"]).block > 3 * plain.block


def test_formats_that_a_gpu_lacks_are_not_faster(sizes):
    for name, gpu in GPUS.items():
        if not gpu.gpu:
            continue
        plain = speed_of(sizes, BF16, gpu).block
        fast = speed_of(sizes, replace(BF16, weights="fp8"), gpu).block
        assert (fast < plain) is bool(gpu.fp8), name
        four = speed_of(sizes, replace(BF16, weights="nvfp4-w4a4"), gpu).block
        assert (four < plain) is bool(gpu.fp4), name
