"""Sizes that follow from a config, its JSON form, and the configs that are refused."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.vae import POCKET_VAE, WAN22_VAE, VAEConfig
from tests.models.vae.tiny import CONFIGS, HALF, SAME, build, random_latents, random_video


@given(st.sampled_from([WAN22_VAE, POCKET_VAE, *CONFIGS]))
def test_a_config_goes_through_json_unchanged(config):
    assert VAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="no key 'latent_chanels'; did you mean 'latent_channels'"):
        VAEConfig.from_dict({**SAME.to_dict(), "latent_chanels": 4})


def test_a_missing_key_is_named():
    values = SAME.to_dict()
    del values["latent_std"]
    with pytest.raises(ValueError, match="lacks latent_std"):
        VAEConfig.from_dict(values)


@pytest.mark.parametrize(
    ("config", "spatial", "temporal"), [(WAN22_VAE, 16, 4), (POCKET_VAE, 8, 4), (HALF, 8, 2)]
)
def test_strides(config, spatial, temporal):
    assert (config.spatial_stride, config.temporal_stride) == (spatial, temporal)


def test_a_block_of_eight_latents_is_29_frames_at_the_start_and_32_later():
    assert POCKET_VAE.pixel_frames(8) == 29
    assert POCKET_VAE.pixel_frames(16) - POCKET_VAE.pixel_frames(8) == 32


@given(st.integers(1, 60))
def test_frames_beyond_the_last_full_group_make_no_latent(latents):
    frames = WAN22_VAE.pixel_frames(latents)
    assert {WAN22_VAE.latent_frames(frames + extra) for extra in range(4)} == {latents}


def test_histories_of_the_published_vae():
    assert (WAN22_VAE.encoder_history, WAN22_VAE.decoder_history) == (28, 38)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_decoder_looks_back_exactly_its_history(config):
    last = config.decoder_history + 2
    latents = random_latents(config, last + 1)[..., :1].requires_grad_()
    build(config).decode(latents)[:, :, -config.temporal_stride :].sum().backward()
    reached = latents.grad.abs().amax((0, 1, 3, 4)).nonzero().flatten()
    assert last - reached[0] == config.decoder_history


@pytest.mark.parametrize("config", CONFIGS)
def test_the_encoder_looks_back_exactly_its_history(config):
    last = config.encoder_history + 2
    video = random_video(config, config.pixel_frames(last + 1)).requires_grad_()
    build(config).encode(video)[:, :, -1].sum().backward()
    reached = video.grad.abs().amax((0, 1, 3, 4)).nonzero().flatten()
    first = -(-int(reached[0]) // config.temporal_stride)  # the latent frame that holds it
    assert last - first == config.encoder_history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_dim": 0}, "encoder_dim is at least 1, got 0"),
        ({"temporal_downsample": (True,)}, "got 1 entries for 3 stages.*Pass 2 entries"),
        ({"latent_mean": (0.0,)}, "latent_mean needs one number a latent channel, got 1 for 3"),
        ({"latent_std": (1.0, 0.0, 1.0)}, "latent_std must be positive, got 0.0"),
        ({"dim_mult": (1, 2, 4)}, "encoder 8 -> 16 channels.*the last two of them equal"),
        ({"dim_mult": (2, 3, 3)}, "encoder 8 -> 12 channels"),
        (
            {"dim_mult": (1, 2, 3, 3), "temporal_downsample": (False, True, True)},
            "encoder 8 -> 12, decoder 12 -> 8 channels",
        ),
    ],
)
def test_a_config_that_cannot_be_built_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SAME, **change)


@pytest.mark.parametrize("dim_mult", [(1, 1, 1), (1, 2, 2), (2, 1, 1), (4, 1, 1), (1, 4, 4)])
def test_a_config_that_is_accepted_runs(dim_mult):
    vae = build(replace(SAME, dim_mult=dim_mult))
    with torch.no_grad():
        video = vae.decode(vae.encode(random_video(SAME, 5)))
    assert video.shape == (1, 3, 5, 8, 8)


def test_the_published_statistics_are_not_touched():
    """Of Wan2.2's VAE, compared once, number by number, with the original's source."""
    numbers = " ".join(f"{x:.4f}" for x in WAN22_VAE.latent_mean + WAN22_VAE.latent_std)
    assert hashlib.sha256(numbers.encode()).hexdigest().startswith("59faf7299fcc8119")
