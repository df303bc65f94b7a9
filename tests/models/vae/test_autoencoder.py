"""The VAE as a whole: shapes, causality, gradients, ranges, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_models.vae import POCKET_VAE, WanVAE
from tests.models.vae.tiny import (
    CONFIGS,
    GROWING,
    SAME,
    build,
    difference,
    random_latents,
    random_video,
)

few = settings(max_examples=10)
VAES = {config: build(config) for config in CONFIGS}


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for the last digits, in which four frames that are computed at once may meet."""
    return torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_shapes(config):
    vae, frames = VAES[config], config.pixel_frames(3)
    mean, logvar = vae.moments(random_video(config, frames, batch=2, side=2))
    assert mean.shape == logvar.shape == (2, 3, 3, 1, 2)
    assert vae.decode(mean).shape == (2, 3, frames, *[config.spatial_stride * n for n in (1, 2)])


@few
@given(st.sampled_from(CONFIGS), st.integers(0, 3))
def test_no_pixel_depends_on_later_latents(config, frame):
    latents = random_latents(config, 4)
    changed = latents.clone()
    changed[:, :, frame:] += 1
    with torch.no_grad():
        a, b = VAES[config].decode(latents), VAES[config].decode(changed)
    before = config.pixel_frames(frame) if frame else 0
    assert _same(a[:, :, :before], b[:, :, :before])
    assert (a - b)[:, :, before:].abs().amax((0, 1, 3, 4)).min() > 0


@few
@given(st.sampled_from(CONFIGS), st.integers(0, 8))
def test_no_latent_depends_on_later_pixels(config, frame):
    video = random_video(config, config.pixel_frames(3))
    frame = min(frame, video.shape[2] - 1)
    changed = video.clone()
    changed[:, :, frame:] *= -1
    with torch.no_grad():
        a, b = VAES[config].encode(video), VAES[config].encode(changed)
    holds = -(-frame // config.temporal_stride)  # the latent frame that holds it
    assert _same(a[:, :, :holds], b[:, :, :holds])
    assert (a - b)[:, :, holds:].abs().amax((0, 1, 3, 4)).min() > 0


def test_samples_of_a_batch_do_not_meet():
    vae, video = VAES[SAME], random_video(SAME, 5, batch=2)
    with torch.no_grad():
        together, alone = vae.encode(video), vae.encode(video[1:])
        assert difference(together[1:], alone) < 1e-12
        assert difference(vae.decode(together)[1:], vae.decode(alone)) < 1e-12


@pytest.mark.parametrize("config", CONFIGS)
def test_every_weight_gets_a_gradient(config):
    vae = build(config)
    mean, logvar = vae.moments(random_video(config, config.pixel_frames(3), side=2))
    (vae.decode(vae.normalize(mean)).square().mean() + logvar.mean()).backward()
    silent = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_gradients_are_right():
    vae, latents = VAES[SAME], random_latents(SAME, 3).requires_grad_()
    direction, step = torch.randn_like(latents), 1e-6
    weight = torch.randn(1, 3, 9, 8, 16, dtype=torch.float64)
    (slope,) = torch.autograd.grad((vae.decode(latents) * weight).sum(), latents)
    with torch.no_grad():
        up, down = (vae.decode(latents + sign * step * direction) for sign in (1, -1))
    measured = ((up - down) * weight).sum() / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), measured, rtol=1e-5, atol=1e-8)


def test_statistics_normalize_each_channel():
    vae, video = VAES[SAME], random_video(SAME, 5)
    mean, _ = vae.moments(video)
    shape = (1, 3, 1, 1, 1)
    offset, spread = (
        torch.tensor(v).double().view(shape) for v in (SAME.latent_mean, SAME.latent_std)
    )
    assert difference(vae.encode(video), (mean - offset) / spread) < 1e-12
    assert difference(vae.denormalize(vae.normalize(mean)), mean) < 1e-12


def test_statistics_come_back_after_building_without_memory():
    with torch.device("meta"):
        vae = WanVAE(SAME)
    vae.to_empty(device="cpu")
    vae.reset_statistics()
    torch.testing.assert_close(vae.latent_std.flatten(), torch.tensor(SAME.latent_std))


def test_log_variance_is_clamped_before_it_overflows():
    vae = build(SAME)
    with torch.no_grad():
        vae.conv1.bias[:] = torch.tensor([0.0, 0, 0, 1e4, -1e4, 0])
    _, logvar = vae.moments(random_video(SAME, 1))
    assert logvar[:, 0].max() == 20 and logvar[:, 1].min() == -30
    assert logvar.exp().isfinite().all()


def test_bfloat16_autocast_stays_near_float32():
    vae, video = build(GROWING, torch.float32), random_video(GROWING, 5).float()
    with torch.no_grad():
        want = vae.decode(vae.encode(video))
        with torch.autocast("cpu", torch.bfloat16):
            mean, logvar = vae.moments(video)
            got = vae.decode(vae.normalize(mean))
    assert mean.dtype == logvar.dtype == torch.float32
    assert (got - want).std() < 0.05 * want.std()


def test_channels_last_weights_change_the_layout_only():
    vae, latents = build(SAME), random_latents(SAME, 3)
    want = vae.decode(latents)
    vae.channels_last_()
    weight = vae.decoder.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert difference(vae.decode(latents), want) < 1e-12


def test_the_pocket_preset_has_the_size_that_its_docstring_gives():
    with torch.device("meta"):
        vae = WanVAE(POCKET_VAE)
        mean, _ = vae.moments(torch.empty(1, 3, 33, 128, 128))
        video = vae.decode(mean)
    assert 4.0e6 < sum(p.numel() for p in vae.parameters()) < 5.0e6
    assert mean.shape == (1, 24, 9, 16, 16) and video.shape == (1, 3, 33, 128, 128)


def test_leftover_frames_are_refused_unless_parity_drops_them():
    vae, video = VAES[SAME], random_video(SAME, 7)
    with pytest.raises(ValueError, match=r"encodes 1 \+ 4 n frames at the start .*got 7.*Pass 5"):
        vae.encode(video)
    with pytest.raises(ValueError, match=r"got 0: .*Pass 1 frames"):
        vae.encode(video[:, :, :0])
    with torch.no_grad():
        assert difference(vae.encode(video, parity=True), vae.encode(video[:, :, :5])) == 0


def test_a_later_piece_that_is_no_whole_group_is_refused():
    vae = VAES[SAME]
    with torch.no_grad():
        _, state = vae.encode_block(random_video(SAME, 1))
        with pytest.raises(ValueError, match="encodes 4 n frames later on .*got 5.*Pass 4 frames"):
            vae.encode_block(random_video(SAME, 5), state)


def test_odd_sizes_are_refused_with_sizes_that_fit():
    video = torch.zeros(1, 3, 1, 12, 17, dtype=torch.float64)
    with pytest.raises(ValueError, match="divisible by 8, got 12 x 17.*resize to 8 x 16"):
        VAES[SAME].encode(video)


def test_frames_smaller_than_a_latent_position_are_refused():
    video = torch.zeros(1, 3, 1, 4, 16, dtype=torch.float64)
    with pytest.raises(ValueError, match="divisible by 8, got 4 x 16.*resize to 8 x 16"):
        VAES[SAME].encode(video)


def test_latents_of_another_vae_are_refused():
    latents = torch.zeros(1, 16, 2, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="decodes 3 latent channels, got 16"):
        VAES[SAME].decode(latents)
    with pytest.raises(ValueError, match="at least one latent frame"):
        VAES[SAME].decode(random_latents(SAME, 0))


def test_statistics_may_be_replaced():
    a, b = VAES[SAME], build(replace(SAME, latent_mean=(0.0,) * 3, latent_std=(1.0,) * 3))
    video = random_video(SAME, 5)
    assert difference(b.encode(video), a.moments(video)[0]) < 1e-12


def test_statistics_are_buffers_that_move_with_the_weights_and_are_not_stored():
    vae = build(SAME)
    assert {"latent_mean", "latent_std"} <= dict(vae.named_buffers()).keys()
    assert not {"latent_mean", "latent_std"} & vae.state_dict().keys()
