"""Image-to-video: the given frame stays, is clean, and bears no loss."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longlive_models.diffusion import FlowSchedule, unipc, unipc_schedule
from longlive_models.first_frame import (
    clean_first_frame,
    first_frame_loss_mask,
    image_to_pixels,
    pin_first_frame,
)


@given(st.integers(1, 3), st.integers(1, 9))
def test_the_frame_is_put_back_and_nothing_else_changes(batch, frames):
    latents, image = torch.randn(batch, 2, frames, 3, 4), torch.randn(batch, 2, 1, 3, 4)
    before = latents.clone()
    pinned = pin_first_frame(latents, image)
    assert torch.equal(pinned[:, :, :1], image)
    assert torch.equal(pinned[:, :, 1:], before[:, :, 1:])
    assert torch.equal(latents, before)
    assert torch.equal(pin_first_frame(pinned, image), pinned)


def test_the_frame_takes_the_type_of_the_latents():
    pinned = pin_first_frame(torch.zeros(1, 2, 3, 4, 4), torch.ones(1, 2, 1, 4, 4).bfloat16())
    assert pinned.dtype == torch.float32


@given(st.integers(1, 3), st.integers(1, 9), st.floats(1, 1000))
def test_the_frame_is_clean_and_bears_no_loss(batch, frames, timestep):
    timesteps = torch.full((batch, frames), timestep)
    cleaned, mask = clean_first_frame(timesteps), first_frame_loss_mask(timesteps)
    assert (cleaned[:, 0] == 0).all() and (mask[:, 0] == 0).all()
    assert torch.equal(cleaned[:, 1:], timesteps[:, 1:])
    assert (mask[:, 1:] == 1).all()
    assert (timesteps == timesteps[0, 0]).all()
    assert (FlowSchedule().sigma(cleaned)[:, 0] == 0).all()


def test_sampling_sees_the_frame_at_every_step_and_returns_it():
    image = torch.randn(1, 2, 1, 3, 3)
    seen = []

    def denoise(x, timestep):
        seen.append(x)
        return x * 0.5

    pin = partial(pin_first_frame, image=image)
    result = unipc(denoise, torch.randn(1, 2, 8, 3, 3), unipc_schedule(4), constrain=pin)
    assert len(seen) == 4
    for x in (*seen, result):
        assert torch.equal(x[:, :, :1], image)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24))
def test_any_image_becomes_a_frame_of_the_size_asked_for(rows, columns, height, width):
    image = torch.randint(0, 256, (rows, columns, 3), dtype=torch.uint8)
    for fit in ("crop", "stretch"):
        pixels = image_to_pixels(image, height, width, fit=fit)
        assert pixels.shape == (1, 3, 1, height, width)
        assert pixels.abs().max() <= 1


def test_black_and_white_are_the_ends_of_the_range():
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert (image_to_pixels(image, 4, 4) == -1).all()
    assert (image_to_pixels(image + 255, 4, 4) == 1).all()


def test_a_large_image_is_averaged_not_sampled():
    """Without antialiasing, one pixel in eight would decide, and a fine pattern become noise."""
    rows, columns = torch.arange(64)[:, None], torch.arange(96)[None, :]
    fine = (((rows + columns) % 2) * 255).to(torch.uint8)[..., None].repeat(1, 1, 3)
    assert image_to_pixels(fine, 8, 12).abs().max() < 0.02  # grey all over
    image = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8)
    pillow = Image.fromarray(image.numpy()).resize((12, 8), Image.Resampling.BILINEAR)
    want = torch.from_numpy(np.array(pillow)).permute(2, 0, 1).float() / 127.5 - 1
    assert (image_to_pixels(image, 8, 12)[0, :, 0] - want).abs().max() < 1.5 / 127.5


def test_the_image_is_left_as_it_was():
    image = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8)
    before = image.clone()
    image_to_pixels(image, 16, 16)
    assert torch.equal(image, before)


@pytest.mark.parametrize("wide", [True, False])
def test_cropping_keeps_the_middle_and_stretching_keeps_all(wide):
    image = torch.zeros(8, 16, 3, dtype=torch.uint8)
    image[:, 4:12] = 255  # a white middle, black margins
    image = image if wide else image.transpose(0, 1)
    assert (image_to_pixels(image, 8, 8) == 1).all()
    stretched = image_to_pixels(image, 8, 8, fit="stretch")
    assert stretched.min() == -1
    assert stretched.mean().abs() < 0.05
