"""Parts of a video encoded with a halo are those of the whole; with less of a halo they are not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.sequence_parallel import BalancedPartition, causal_history
from longlive_models.vae import (
    POCKET_VAE,
    WAN22_VAE,
    VAEConfig,
    WanVAE,
    encode_chunk,
    encode_part,
    encode_window,
)
from longlive_models.vae.layers import CausalConv3d, TemporalConv3d
from tests.models.vae.tiny import CONFIGS, GROWING, HALF, build, difference, random_video

EXACT = 1e-12


def long_sighted(sizes: VAEConfig) -> WanVAE:
    """A VAE whose convolutions look at their oldest frame most, so that the past carries far."""
    vae = build(sizes)
    with torch.no_grad():
        for module in vae.encoder.modules():
            if isinstance(module, CausalConv3d | TemporalConv3d):
                module.weight[:, :, 0] *= 8
    return vae


@pytest.mark.parametrize("sizes", CONFIGS)
@torch.no_grad()
def test_the_derived_halo_is_exact_and_two_frames_fewer_are_not(sizes):
    vae, history = long_sighted(sizes), sizes.encoder_history
    frames = history + 4
    video = random_video(sizes, sizes.pixel_frames(frames))
    whole, keep = vae.encode(video), range(history + 2, frames)
    part = whole[:, :, keep.start :]
    assert difference(encode_part(vae, video, keep), part) < EXACT
    assert difference(encode_part(vae, video, keep, halo=history), part) < EXACT
    assert difference(encode_part(vae, video, keep, halo=history - 2), part) > 1e3 * EXACT


@given(st.data())
@settings(max_examples=6)
@torch.no_grad()
def test_every_ranks_part_is_that_of_the_whole(data):
    sizes = data.draw(st.sampled_from(CONFIGS))
    vae = build(sizes)
    frames = data.draw(st.integers(1, sizes.encoder_history + 6))
    ranks = data.draw(st.integers(1, min(frames, 4)))
    video = random_video(sizes, sizes.pixel_frames(frames))
    partition = BalancedPartition(frames=frames, ranks=ranks, tokens_per_frame=1)
    parts = [encode_part(vae, video, partition.frames_of(rank)) for rank in range(ranks)]
    assert difference(torch.cat(parts, 2), vae.encode(video)) < EXACT


def layers(sizes: VAEConfig) -> list[tuple[int, int]]:
    """The encoder's convolutions in time, as its forward runs them: (frames before, stride)."""
    stage = [(2, 1)] * 2 * sizes.num_res_blocks
    found = [(2, 1)]
    for halved in sizes.temporal_downsample:
        found += stage + ([(2, 2)] if halved else [])
    return found + stage + [(2, 1)] * 4 + [(2, 1)]


@pytest.mark.parametrize("sizes", [*CONFIGS, WAN22_VAE, POCKET_VAE])
def test_the_history_is_what_its_convolutions_add_up_to(sizes):
    assert causal_history(layers(sizes)) == sizes.encoder_history


def test_a_rank_needs_only_its_own_frames_and_the_halo():
    vae = build(HALF)
    video = random_video(HALF, HALF.pixel_frames(HALF.encoder_history + 6))
    keep = range(HALF.encoder_history + 3, HALF.encoder_history + 6)
    window = encode_window(HALF, keep)
    frames = video[:, :, window.pixels.start : window.pixels.stop].clone()
    assert frames.shape[2] < video.shape[2]
    with torch.no_grad():
        assert difference(encode_chunk(vae, frames, window), encode_part(vae, video, keep)) == 0
    with pytest.raises(ValueError, match=r"frames 4 to \d+ of the video, \d+ of them, got 3"):
        encode_chunk(vae, frames[:, :, :3], window)


def test_more_than_the_video_has_is_refused():
    video = random_video(GROWING, 9)
    with pytest.raises(ValueError, match="latent frames 2 to 3 .* a video of 9 frames has 3"):
        encode_part(build(GROWING), video, range(2, 4))
