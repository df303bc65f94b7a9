"""Noise is a function of (seed, frame): Philox's published answers, normal moments, no length."""

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core import noise
from longlive_core.noise import gaussian, gaussian_batch, philox4x32
from longlive_core.testing import assert_bitwise_equal

PINNED = [[-1081823367, 1061662016, 1053536328], [1063640245, 1061383788, -1069941551]]

SEEDS = st.integers(0, 2**64 - 1)
FRAMES = st.lists(st.integers(0, 2**40), max_size=4)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize(  # Random123's known answers for philox4x32 with 10 rounds
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_known_answers(counter, key, answer):
    words = tuple(torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in philox4x32(words, key)) == answer


@given(SEEDS, FRAMES, SHAPES)
def test_a_frame_is_the_same_alone_and_in_any_company(seed, frames, shape):
    together = gaussian(seed, frames, shape)
    assert together.shape == (len(frames), *shape)
    assert together.dtype == torch.float32
    for i, frame in enumerate(frames):
        assert_bitwise_equal(gaussian(seed, [frame], shape)[0], together[i])


@given(SEEDS, st.integers(0, 1000), st.integers(1, 40), st.integers(1, 40))
def test_a_longer_frame_starts_with_the_shorter_one(seed, frame, short, more):
    long = gaussian(seed, [frame], (short + more,))
    assert_bitwise_equal(gaussian(seed, [frame], (short,)), long[:, :short])


@given(SEEDS, st.integers(0, 2**40))
def test_seeds_and_frames_differ_from_their_neighbors(seed, frame):
    here = gaussian(seed, [frame], (8,))
    assert not torch.equal(here, gaussian(seed ^ 1, [frame], (8,)))
    assert not torch.equal(here, gaussian(seed ^ (1 << 40), [frame], (8,)))
    assert not torch.equal(here, gaussian(seed, [frame + 1], (8,)))
    assert not torch.equal(here, gaussian(seed, [frame + 2**33], (8,)))


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = gaussian(3, [5], (6,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_bitwise_equal(gaussian(3, [5], (6,)), first)


def test_the_draw_is_pinned():
    """Bytes that were drawn once: a video made then can be made again."""
    bits = gaussian(2026, [0, 7], (3,)).view(torch.int32).tolist()
    assert bits == PINNED


def test_the_draw_is_normal_and_uncorrelated():
    x = gaussian(11, range(16), (16, 40, 40)).double()
    count = x.numel()
    assert abs(x.mean()) < 4 / math.sqrt(count)
    assert abs(x.square().mean() - 1) < 4 * math.sqrt(2 / count)
    assert abs(x.pow(3).mean()) < 4 * math.sqrt(15 / count)
    assert abs(x.pow(4).mean() - 3) < 4 * math.sqrt(96 / count)
    flat = x.flatten()
    for lag in (1, 2, 3, 4, 1600):
        assert abs((flat[lag:] * flat[:-lag]).mean()) < 4 / math.sqrt(count)
        assert abs((flat[lag:].square() * flat[:-lag].square()).mean() - 1) < 5 * math.sqrt(
            8 / count
        )
    assert abs((x[1:] * x[:-1]).mean()) < 4 / math.sqrt(count)
    edges = torch.tensor([-3.0, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 2.0, 3.0])
    for edge in edges.tolist():
        want = 0.5 * (1 + math.erf(edge / math.sqrt(2)))
        spread = math.sqrt(want * (1 - want) / count)
        assert abs((flat < edge).double().mean() - want) < 4 * spread


def test_logarithm_and_circle_match_the_library():
    """The polynomials are accurate far beyond float32, at the ends of the range too."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 2**32, (20000,), generator=generator)
    words[:6] = torch.tensor([0, 1, 2**30 - 1, 2**30, 2**31, 2**32 - 1])
    uniform = (words.double() + 0.5) / 2**32
    torch.testing.assert_close(noise._log_uniform(words), uniform.log(), rtol=1e-13, atol=0)
    cosine, sine = noise._point_on_circle(words)
    quarter = (words >> 30).double()
    within = ((words & (2**30 - 1)).double() + 0.5) / 2**30
    angle = (quarter + within - 0.5) * (math.pi / 2)
    torch.testing.assert_close(cosine, angle.cos(), rtol=0, atol=1e-13)
    torch.testing.assert_close(sine, angle.sin(), rtol=0, atol=1e-13)


def test_a_block_of_the_large_model_takes_well_under_a_second():
    start = time.perf_counter()
    assert gaussian(7, range(8), (48, 44, 80)).isfinite().all()
    assert time.perf_counter() - start < 2.0  # 0.1 s alone on one core


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_bytes():
    on_gpu = gaussian(7, range(3), (16, 5, 5), device="cuda")
    assert on_gpu.device.type == "cuda"
    assert_bitwise_equal(on_gpu.cpu(), gaussian(7, range(3), (16, 5, 5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, [0], (2,)), "a seed of noise is at least 0, got -1"),
        ((2**64, [0], (2,)), "a seed of noise is at most"),
        ((0, [3, -1], (2,)), "a frame of noise is at least 0, got -1"),
        ((0, [0], (2, 0)), "1 to 2\\*\\*34 - 1 elements, got \\(2, 0\\) with 0"),
    ],
)
def test_what_has_no_counter_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian(*arguments)


@given(st.lists(SEEDS, min_size=1, max_size=3), FRAMES, SHAPES)
def test_each_seed_of_several_draws_what_it_draws_alone(seeds, frames, shape):
    together = gaussian_batch(seeds, frames, shape)
    assert together.shape == (len(seeds), len(frames), *shape)
    for video, seed in zip(together, seeds, strict=True):
        assert_bitwise_equal(video, gaussian(seed, frames, shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_type_holds_the_same_numbers_rounded(dtype):
    got = gaussian(3, [0, 5], (7,), dtype=dtype)
    assert_bitwise_equal(got, gaussian(3, [0, 5], (7,)).to(dtype))


def test_noise_of_no_seed_and_of_integers_is_refused():
    with pytest.raises(ValueError, match="noise of type torch.int32.*floating type"):
        gaussian(0, [0], (1,), dtype=torch.int32)
    with pytest.raises(ValueError, match="noise of no seeds"):
        gaussian_batch([], [0], (1,))
