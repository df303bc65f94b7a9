"""Diffusers' Wan VAE behind the scheduler: blocks decode to the video that one call gives."""

from typing import Any

import pytest
import torch
from torch import Tensor

from longlive_core.async_decode import AsyncDecodeScheduler
from longlive_core.nvfp4 import plan_conversion
from tests.ecosystem.foreign import drawn


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("lengths", [(2, 2), (1, 3)])
def test_blocks_decode_to_the_whole_video(vae, lane, lengths):
    """The state is the decoder's own: what each causal convolution remembers."""

    @torch.no_grad()
    def decode(latents: Tensor, memory: list[Any] | None) -> tuple[Tensor, list[Any]]:
        first = memory is None
        memory = [None] * vae._cached_conv_counts["decoder"] if memory is None else memory
        frames = []
        for i, latent in enumerate(vae.post_quant_conv(latents).split(1, 2)):
            how = {"feat_cache": memory, "feat_idx": [0], "first_chunk": first and i == 0}
            frames.append(vae.decoder(latent, **how))
        return torch.cat(frames, 2).clamp(-1, 1), memory

    latents = drawn(1, 4, 4, 4, 4)
    with torch.no_grad():
        want = vae.decode(latents).sample
    frames: list[Tensor] = []
    with AsyncDecodeScheduler(decode, lane=lane) as decoder:
        for block in latents.split(lengths, 2):
            decoder.submit(block)
            frames.extend(decoder.ready())
        frames.extend(decoder.finish())
    assert want.shape[2] == 13
    torch.testing.assert_close(torch.cat(frames, 2), want)


def test_a_vae_of_convolutions_has_nothing_to_pack(vae):
    assert plan_conversion(vae).swapped == ()


def test_weights_under_diffusers_names_decode_and_encode_to_the_same(tmp_path):
    """Names map to the layers that they mean: both compute the same."""
    from diffusers import AutoencoderKLWan

    from longlive_models.layouts.part_files import open_part
    from longlive_models.layouts.sizes import vae_config
    from longlive_models.vae import load_vae
    from tests.models.foreign_files import write_diffusers

    folder = write_diffusers(tmp_path) / "vae"
    theirs = AutoencoderKLWan.from_pretrained(folder).eval()
    part = open_part(folder, "vae")
    ours = load_vae(part.read(), config=vae_config(part.shapes, part.config, folder))
    latents = drawn(1, 48, 2, 2, 2)
    std, mean = ours.latent_std, ours.latent_mean
    with torch.no_grad():
        want = theirs.decode(latents * std + mean).sample
        torch.testing.assert_close(ours.decode(latents).clamp(-1, 1), want, rtol=1e-4, atol=1e-5)
        video = drawn(1, 3, 5, 32, 32).clamp(-1, 1)
        want = (theirs.encode(video).latent_dist.mode() - mean) / std
        torch.testing.assert_close(ours.encode(video), want, rtol=1e-4, atol=1e-5)
