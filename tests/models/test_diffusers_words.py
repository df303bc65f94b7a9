"""What users of Diffusers type: it means the same as the pipeline's own words, or is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from longlive_core.testing import assert_bitwise_equal
from longlive_models import Storyboard
from longlive_models.diffusers_words import DiffusersWords
from tests.models.tiny_pipeline import FPS, tiny_pipeline

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def test_words_of_diffusers_mean_the_pipelines_own(pipe):
    told = []
    made = pipe(
        PROMPT,
        num_frames=11,
        num_inference_steps=3,
        guidance_scale=2.0,
        negative_prompt="a blue square",
        generator=torch.Generator().manual_seed(4),
        callback_on_step_end=lambda *what: told.append(what),
        height=32,
        width=32,
    )
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(4)))
    own = pipe(
        PROMPT,
        seconds=11 / FPS,
        steps=3,
        guidance=2.0,
        negative_prompt="a blue square",
        seed=seed,
    )
    assert len(made) == 11
    assert_bitwise_equal(made.frames, own.frames)
    assert [step for _, step, _, _ in told] == [0, 1, 2, 3, 4, 5]  # two blocks of three
    assert all(who is pipe for who, *_ in told)
    assert told[0][2] > told[2][2] and set(told[0][3]) == {"latents"}


@pytest.mark.parametrize("frames", [1, 5, 6, 30, 31])
def test_as_many_frames_as_are_asked_for(pipe, frames):
    assert len(pipe(PROMPT, num_frames=frames)) == frames


def test_a_generator_moves_on_as_in_diffusers(pipe):
    def made(generator):
        return pipe(PROMPT, num_frames=5, generator=generator).frames

    one = torch.Generator().manual_seed(7)
    first, second = made(one), made(one)
    assert not torch.equal(first, second)
    assert_bitwise_equal(made(torch.Generator().manual_seed(7)), first)


def test_output_types_are_batches_of_one(pipe):
    video = pipe(PROMPT, num_frames=6)
    array = pipe(PROMPT, num_frames=6, output_type="np").frames
    assert (array.shape, array.dtype) == ((1, 6, 32, 32, 3), np.float32)
    assert (np.round(array[0] * 255).astype(np.uint8) == video.numpy()).all()
    tensor = pipe(PROMPT, num_frames=6, output_type="pt").frames
    assert tuple(tensor.shape) == (1, 6, 3, 32, 32)
    assert_bitwise_equal(tensor, torch.from_numpy(array).movedim(-1, 2))
    [images] = pipe(PROMPT, num_frames=6, output_type="pil").frames
    assert all(isinstance(image, Image.Image) for image in images)
    assert (np.stack([np.asarray(image) for image in images]) == video.numpy()).all()
    (same,) = pipe(PROMPT, num_frames=6, output_type="np", return_dict=False)
    assert (same == array).all()
    assert (pipe(PROMPT, num_frames=6, output_type="np")[0] == array).all()


def test_a_callback_ends_the_video_as_in_diffusers(pipe):
    def interrupt(who, step, timestep, tensors):
        if step == 2:
            who._interrupt = True
        return tensors

    whole = pipe(PROMPT, num_frames=21)
    part = pipe(PROMPT, num_frames=21, callback_on_step_end=interrupt)
    assert_bitwise_equal(part.frames, whole.frames[:5])  # the block in progress is dropped
    assert_bitwise_equal(pipe(PROMPT, num_frames=21).frames, whole.frames)
    stopped = pipe(PROMPT, num_frames=21, callback_on_step_end=lambda *_: False)
    assert len(stopped) == 0


def test_a_callback_cannot_replace_what_was_made(pipe):
    def change(who, step, timestep, tensors):
        return {"latents": tensors["latents"] * 2}

    with pytest.raises(ValueError, match="cannot replace it"):
        pipe(PROMPT, num_frames=5, callback_on_step_end=change)
    told = []
    pipe(
        PROMPT,
        num_frames=5,
        callback_on_step_end=lambda *what: told.append(what[3]),
        callback_on_step_end_tensor_inputs=[],
    )
    assert told == [{}, {}]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_frames": 5, "seconds": 1}, "num_frames=5 and seconds=1 are two names"),
        ({"num_inference_steps": 2, "steps": 2}, "two names of one setting"),
        ({"guidance_scale": 2, "guidance": 2}, "two names of one setting"),
        ({"generator": torch.Generator(), "seed": 0}, "and seed=0 are two names"),
        ({"callback_on_step_end": print, "on_step": print}, "two names of one setting"),
        ({"height": 64}, "height=64, and this model makes 32x32"),
        ({"width": 31}, "width=31, and this model makes 32x32"),
        ({"num_frames": 0}, "num_frames is at least 1"),
        ({"num_frames": 2.5}, "num_frames is a whole number"),
        ({"num_inference_steps": 0}, "steps"),
        ({"guidance_scale": -1}, "guidance"),
        ({"generator": 3}, "generator=3 is no torch.Generator"),
        ({"generator": [torch.Generator()]}, "is no torch.Generator"),
        ({"output_type": "latent"}, "output_type='latent' is none of np, pt, pil"),
        ({"return_dict": False}, "pass output_type='np'"),
        ({"num_videos_per_prompt": 2}, "a call makes one video"),
        ({"callback_on_step_end": 3}, "is a function of"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "there is no such callback"),
        (
            {
                "callback_on_step_end": print,
                "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
            },
            "the tensor 'latents' alone",
        ),
        ({"latents": torch.zeros(1)}, "latents means nothing here: noise is a function of"),
        ({"prompt_embeds": torch.zeros(1)}, "prompt_embeds means nothing here"),
        ({"second": 2}, r"no argument 'second'; did you mean 'seconds'\?"),
        ({"num_frame": 2}, r"did you mean 'num_frames'\?"),
    ],
)
def test_what_means_nothing_here_is_refused_in_words(pipe, how, message):
    with pytest.raises(ValueError, match=message) as refusal:
        pipe(PROMPT, **how)
    assert str(refusal.value).endswith(".")


def test_every_word_is_documented_and_a_word_that_is_none_is_left_to_the_model(pipe):
    for word in DiffusersWords.__annotations__:
        if word not in ("return_dict", "num_videos_per_prompt"):
            assert word.removesuffix("_tensor_inputs") in (DiffusersWords.__doc__ or ""), word
    nothing = dict.fromkeys(DiffusersWords.__annotations__)
    assert_bitwise_equal(pipe(PROMPT, **nothing).frames, pipe(PROMPT).frames)


def test_what_is_no_prompt_is_refused_in_words():
    for value in (5, None, 2.5, b"a"):
        with pytest.raises(ValueError, match=r"a prompt is a text, a list of shots or a storyb"):
            Storyboard.of(value)
