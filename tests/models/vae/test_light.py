"""The light decoder: what is kept of the full one, its folder, and streaming as a whole."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_models.checkpoints.folder import fingerprint, save_part
from longlive_models.vae import WAN22_VAE, VAEConfig, WanVAE
from longlive_models.vae.light import (
    FOLDER,
    check_light,
    decoder_weights,
    find_light,
    lighter,
    save_light,
    with_light_decoder,
)
from longlive_models.vae.pruning import _plan, narrower, prune_decoder
from tests.models.vae.tiny import CONFIGS, GROWING, SAME, build, difference, random_latents

SPREADING = VAEConfig(  # widths that grow on the way up: shortcuts repeat channels
    **(
        SAME.to_dict()
        | {
            "dim_mult": (2, 1, 1),
            "encoder_dim": 4,
            "decoder_dim": 4,
            "latent_mean": SAME.latent_mean,
            "latent_std": SAME.latent_std,
            "temporal_downsample": SAME.temporal_downsample,
        }
    )
)
ALL = [*CONFIGS, SPREADING]
LIGHT = {config: lighter(build(config), 2) for config in ALL}
pieces = st.lists(st.integers(1, 3), min_size=2, max_size=4)


@settings(max_examples=10)
@given(st.sampled_from(ALL), pieces)
def test_decoding_in_blocks_equals_decoding_whole(config, sizes):
    vae, latents = LIGHT[config], random_latents(config, sum(sizes))
    with torch.no_grad():
        state, parts = None, []
        for piece in latents.split(sizes, 2):
            video, state = vae.decode_block(piece, state)
            parts.append(video)
        assert difference(torch.cat(parts, 2), vae.decode(latents)) < 1e-11


@pytest.mark.parametrize("config", [*ALL, replace(WAN22_VAE, encoder_dim=16, decoder_dim=8)])
def test_half_the_channels_are_a_quarter_of_the_weights_of_every_inner_convolution(config):
    full = build(config, torch.float32)
    half = config.decoder_dim // 2
    made = prune_decoder(full, half)
    light = WanVAE(narrower(config, half))
    light.load_state_dict(made, strict=False)
    assert {name: x.shape for name, x in made.items()} == {
        name: x.shape for name, x in decoder_weights(light).items()
    }
    whole = full.state_dict()
    inner = [n for n in made if n.endswith("weight") and ("residual" in n or "resample" in n)]
    assert inner
    assert all(4 * made[name].numel() == whole[name].numel() for name in inner)


def test_every_weight_of_the_published_decoder_has_its_channels():
    with torch.device("meta"):
        names = {n for n in WanVAE(WAN22_VAE).state_dict() if n.startswith("decoder.")}
    assert names - {name for name, _ in _plan(WAN22_VAE)} == {"decoder.head.2.bias"}


@pytest.mark.parametrize("config", ALL)
def test_channels_that_nothing_reads_or_writes_are_cut_first_and_change_nothing(config):
    """A decoder widened by silent channels gives its own frames when these are cut again."""
    narrow, full = build(config), build(replace(config, decoder_dim=2 * config.decoder_dim))
    own = narrow.state_dict()
    plan, silent = dict(_plan(full.config)), full.state_dict()
    for name, tensor in silent.items():
        if not name.startswith("decoder."):
            tensor.copy_(own[name])
            continue
        small = own[name]
        for dim, parts in enumerate(plan.get(name, ())):
            if not parts:
                continue
            index = []
            each = small.shape[dim] // len(parts)
            for number, one in enumerate(parts):  # every other unit says something
                units = torch.arange(each // one.run) * 2
                first = (units * one.run + number * 2 * each)[:, None]
                index.append((first + torch.arange(one.run)).flatten())
            wide = torch.zeros(*small.shape[:dim], tensor.shape[dim], *small.shape[dim + 1 :])
            small = wide.to(small.dtype).index_copy_(dim, torch.cat(index), small)
        tensor.copy_(small)
    queries = config.decoder_dims[0] * 2
    for part in ("weight", "bias"):  # attention of twice the width divides by more
        silent[f"decoder.middle.1.to_qkv.{part}"][:queries] *= 2**0.5
    full.load_state_dict(silent)
    light = lighter(full, config.decoder_dim)
    latents = random_latents(config, 3)
    with torch.no_grad():
        # norms of the wide decoder count silent channels: sqrt(2 c) / |x|, made up for by gammas
        for name, parameter in full.named_parameters():
            if name.startswith("decoder.") and name.endswith("gamma"):
                parameter /= 2**0.5
        assert difference(light.decode(latents), full.decode(latents)) < 1e-9


def test_the_encoder_is_the_full_one(tmp_path):
    full = build(GROWING)
    light = lighter(full, 2)
    for name, tensor in light.state_dict().items():
        if not name.startswith(("conv2.", "decoder.")):
            assert torch.equal(tensor, full.state_dict()[name])
    save_light(light, tmp_path / FOLDER, dtype=torch.float64)
    again = with_light_decoder(full, tmp_path / FOLDER)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, light.state_dict()[name].to(tensor.dtype)), name


@pytest.mark.parametrize("width", [0, 4, 5])
def test_a_decoder_that_is_not_narrower_is_refused(width):
    with pytest.raises(ValueError, match=f"whose decoder_dim is 4, got {width}: half .* Use 2"):
        narrower(SAME, width)


def test_the_hash_of_a_model_is_that_without_the_light_decoder(tmp_path):
    full = build(SAME)
    save_part(tmp_path / "vae", full.config.to_dict(), full.state_dict())
    alone = fingerprint(tmp_path)
    save_light(lighter(full, 2), tmp_path / FOLDER)
    assert fingerprint(tmp_path) == alone
    assert fingerprint(tmp_path / FOLDER) != alone


def test_what_is_no_light_decoder_of_this_vae_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no light decoder.*vae_light_pocket.*vae='full'"):
        find_light(tmp_path)
    full, folder = build(SAME), tmp_path / FOLDER
    save_light(lighter(full, 2), folder)
    assert find_light(tmp_path) == folder
    other = replace(SAME, latent_mean=(0.5, -0.2, 0.3))
    with pytest.raises(ValueError, match="of another VAE: its latent_mean is .* the model's is"):
        check_light(folder, other)
    with pytest.raises(ValueError, match="narrower than the full one, whose decoder_dim is 2"):
        check_light(folder, narrower(SAME, 2))
    values = json.loads((folder / "config.json").read_text())
    save_part(folder, values, full.state_dict())
    with pytest.raises(ValueError, match="which is no part of a light decoder"):
        with_light_decoder(full, folder)
