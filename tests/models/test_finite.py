"""Numbers that are none: an error that names where they came from, in place of a black video."""

import math

import pytest
import torch

from longlive_models.finite import (
    LARGEST_VALUE,
    Check,
    Checks,
    NonFiniteVideo,
    sound,
    sound_weights,
)
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.video.blocks import decoder, to_frames
from tests.models.tiny_pipeline import tiny_parts, tiny_pipeline

PROMPT = "a red circle"
BIASES = [name for name, _ in tiny_parts()[0].named_parameters() if name.endswith("bias")]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def broken(module: torch.nn.Module, name: str, value: float):
    """A context in which one number of a parameter is another."""

    class Broken:
        def __enter__(self):
            self.weight = module.get_parameter(name)
            self.old = self.weight.detach().flatten()[0].item()
            self.put(value)

        def __exit__(self, *error: object) -> None:
            self.put(self.old)

        def put(self, number: float) -> None:
            with torch.no_grad():
                self.weight.view(-1)[0] = number

    return Broken()


@pytest.mark.parametrize("value", [math.nan, 3e38])
@pytest.mark.parametrize("name", BIASES)
def test_one_bad_number_in_any_bias_of_the_transformer_is_found(pipe, name, value):
    """A norm turns 3e38 into zeros: the latents alone do not tell."""
    generator = pipe.generator([0], pipe.settings.override(steps=1, guidance=1.0))
    with broken(pipe.transformer, name, value), pytest.raises(NonFiniteVideo) as error:
        block = generator.generate(0, [pipe.plan(PROMPT).block(0)])
        block.checks.require(0, {"transformer": pipe.transformer})
    assert (error.value.block, error.value.step) == (0, 1)
    assert str(error.value).startswith("block 0, step 1: ")
    assert name in str(error.value) and f"{value:g}" in str(error.value)


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q.bias", "head.head.bias"])
def test_a_bad_number_stops_a_stream_and_a_call(pipe, name):
    with broken(pipe.transformer, name, 3e38):
        with pytest.raises(NonFiniteVideo, match="block 0, step 1: .*bias holds 3e"):
            next(pipe.stream(PROMPT, seconds=1, steps=1))
        with pytest.raises(NonFiniteVideo):
            pipe(PROMPT, seconds=1, steps=1)


@pytest.mark.parametrize("value", [math.nan, 3e38])
@pytest.mark.parametrize("name", ["decoder.conv1.bias", "decoder.head.2.bias"])
def test_one_bad_number_in_the_vae_is_an_error(pipe, name, value):
    with broken(pipe.vae, name, value), pytest.raises(NonFiniteVideo, match=f"VAE.*{name}"):
        pipe(PROMPT, seconds=1, steps=1)


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_the_block_and_the_step_are_named_after_the_blocks_before_them(lane):
    pipe = tiny_pipeline(
        Runtime.choose(RuntimeOptions(device="cpu", lane=lane)), steps=3, guidance=1.0
    )
    calls = []

    def spoil(module, args, kwargs, velocity):
        calls.append(1)
        spoiled = len(calls) == 4 + 2  # 3 steps and a clean pass each, which has no velocity
        return None if velocity is None else velocity * (math.nan if spoiled else 1)

    handle = pipe.transformer.register_forward_hook(spoil, with_kwargs=True)
    with handle, pipe.stream(PROMPT, seconds=3) as stream:
        assert next(stream).index == 0
        with pytest.raises(NonFiniteVideo, match="block 1, step 2: the velocities") as error:
            next(stream)
        assert (error.value.block, error.value.step) == (1, 2)
        assert list(stream) == []  # it has ended


def test_a_snapshot_of_a_broken_block_is_refused_and_the_block_still_an_error(tmp_path):
    pipe = tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", lane="thread")), guidance=1.0)
    calls = []

    def spoil(module, args, kwargs, velocity):
        calls.append(1)
        return None if velocity is None else velocity * (math.inf if len(calls) > 3 else 1)

    with pipe.transformer.register_forward_hook(spoil, with_kwargs=True):
        stream = pipe.stream(PROMPT, seconds=3)
        next(stream)  # the second block has been generated beside it
        with pytest.raises(NonFiniteVideo):
            stream.snapshot(tmp_path / "x.safetensors")
        with pytest.raises(NonFiniteVideo):
            next(stream)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_with_one_bad_video_fails(pipe):
    plans = [pipe.plan(PROMPT, seconds=1)] * 2

    def spoil(module, args, kwargs, velocity):
        if velocity is not None:  # the clean pass has none
            velocity[1, 0, 0, 0, 0] = math.nan
        return velocity

    with pipe.transformer.register_forward_hook(spoil, with_kwargs=True):
        [block] = pipe.generator([1, 2], pipe.settings).blocks(plans, 1)
    with pytest.raises(NonFiniteVideo):
        block.checks.require(0, {})


def test_what_is_sound_is_a_number_and_no_larger_than_its_bound():
    for bad in (math.nan, math.inf, -math.inf, 2 * LARGEST_VALUE, -2 * LARGEST_VALUE):
        x = torch.zeros(3, 4, dtype=torch.bfloat16)
        x[1, 2] = bad
        assert not sound(x)
    assert sound(torch.tensor([LARGEST_VALUE, -LARGEST_VALUE, 0.0]))


def test_weights_are_parameters_and_buffers_of_sixteen_bits_and_more():
    module = torch.nn.Linear(2, 2)
    module.register_buffer("mask", torch.ones(3, dtype=torch.bool))
    module.register_buffer("codes", torch.zeros(3, dtype=torch.float8_e4m3fn))
    assert sound_weights(module)
    module.register_buffer("scale", torch.tensor(math.nan))
    assert not sound_weights(module)


def test_the_first_check_that_failed_is_told():
    answers = {
        Check("the velocities", 1): torch.tensor(True),
        Check("the velocities", 2): torch.tensor(False),
        Check("the latents"): torch.tensor(False),
    }
    with pytest.raises(NonFiniteVideo, match="block 7, step 2: the velocities.*no weight"):
        Checks.join(answers).require(7, {"transformer": torch.nn.Linear(1, 1)})
    Checks.none().require(0, {})


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_frames_that_are_no_numbers_do_not_become_bytes(bad):
    video = torch.zeros(3, 2, 4, 5)
    video[2, 1, 3, 4] = bad
    with pytest.raises(ValueError, match="pixels are numbers"):
        to_frames(video)


def test_latents_of_nan_are_found_in_the_frames(pipe):
    decoded, _ = decoder(pipe.vae)(torch.full((1, 4, 2, 8, 8), math.nan), None)
    with pytest.raises(NonFiniteVideo, match="block 3: the frames"):
        decoded.checks.require(3, {"VAE": pipe.vae})
