"""Seconds are those that an H200 measured, and go with rates, steps, window and ranks."""

from dataclasses import replace

import pytest

from longlive_recipes.planning.hardware import GPUS
from longlive_recipes.planning.memory import Choice
from longlive_recipes.planning.sizes import sizes_of
from longlive_recipes.planning.speed import speed_of

BF16 = Choice(weights="bf16", kv_cache="bf16", steps=4, guidance=False)
H200 = GPUS["h200"]


@pytest.fixture(scope="module")
def sizes():
    return sizes_of()


@pytest.mark.parametrize(
    ("weights", "block", "frames"), [("bf16", 1.215, 16.2), ("fp8", 1.09, 17.2)]
)
def test_the_5b_takes_what_an_h200_took(sizes, weights, block, frames):
    speed = speed_of(sizes, replace(BF16, weights=weights), H200)
    assert speed.block == pytest.approx(block, rel=0.1)
    assert speed.decoding == pytest.approx(1.01, rel=0.1)
    assert speed.frames_per_second == pytest.approx(frames, rel=0.1)


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
    assert apart.frames_per_second > 1.5 * plain.frames_per_second
    smaller = speed_of(sizes, replace(BF16, image=(352, 640)), H200)
    assert smaller.decoding == pytest.approx(plain.decoding / 4, rel=0.01)
    assert smaller.block < plain.block / 3  # and no less than starting its operations takes
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
