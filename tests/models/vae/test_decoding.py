"""Latents in small pieces, by any backend: the same frames, and what is chosen where."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_models.vae import POCKET_VAE, WAN22_VAE, DecodeOptions, WanVAE
from longlive_models.vae.decoding import latents_at_once
from tests.models.vae.tiny import CONFIGS, GROWING, SAME, build, difference, random_latents

few = settings(max_examples=6)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a GPU")


@few
@given(
    st.sampled_from(CONFIGS),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 4),
    st.sampled_from(["modules", "reference"]),
)
def test_frames_and_state_do_not_depend_on_pieces_and_backend(config, blocks, at_once, backend):
    vae, latents = build(config), random_latents(config, sum(blocks), batch=2)
    with torch.no_grad():
        want = vae.decode(latents)
        vae.decode_with_(DecodeOptions(latents=at_once, backend=backend))
        state, parts = None, []
        for block in latents.split(blocks, 2):
            frames, state = vae.decode_block(block, state)
            parts.append(frames)
        assert difference(torch.cat(parts, 2), want) < 1e-11
        assert difference(vae.decode(latents), want) < 1e-11
        vae.decode_with_(DecodeOptions())
        more = random_latents(config, 2, batch=2)
        _, whole = vae.decode_block(latents)
        got, want = vae.decode_block(more, state)[0], vae.decode_block(more, whole)[0]
        assert difference(got, want) < 1e-11


def test_a_call_of_its_own_for_each_piece_gives_the_same_bits():
    vae, latents = build(GROWING, torch.float32), random_latents(GROWING, 6).float()
    vae.decode_with_(DecodeOptions(latents=2, backend="reference"))
    with torch.no_grad():
        _, state = vae.decode_block(latents[:, :, :2])
        together, at_end = vae.decode_block(latents[:, :, 2:], state)
        parts = []
        for piece in latents[:, :, 2:].split(2, 2):
            frames, state = vae.decode_block(piece, state)
            parts.append(frames)
    assert torch.equal(torch.cat(parts, 2), together)
    assert all(torch.equal(a, b) for a, b in zip(state.history, at_end.history, strict=True))


@pytest.mark.parametrize("options", [{"latents": 1}, {"latents": 1, "tiles": 2}])
def test_a_state_is_never_changed(options):
    vae, latents = build(SAME), random_latents(SAME, 6)
    vae.decode_with_(DecodeOptions(**options, backend="reference"))
    with torch.no_grad():
        _, state = vae.decode_block(latents[:, :, :2])
        before = [frames.clone() for frames in state.history]
        _, later = vae.decode_block(latents[:, :, 2:], state)
    assert all(map(torch.equal, before, state.history))
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in later.history)


def test_pieces_are_small_where_frames_are_large():
    assert latents_at_once(WAN22_VAE, 44 * 80, gpu=True) == 2
    assert latents_at_once(WAN22_VAE, 30 * 52, gpu=True) == 5
    assert latents_at_once(WAN22_VAE, 88 * 160, gpu=True) == 1
    assert latents_at_once(POCKET_VAE, 16 * 16, gpu=True) > 100
    assert latents_at_once(WAN22_VAE, 44 * 80, gpu=False) == 4


def test_with_gradients_the_modules_decode_everything_at_once():
    vae = build(SAME)
    vae.decode_with_(DecodeOptions(latents=1, tiles=2))
    latents = random_latents(SAME, 3).requires_grad_()
    vae.decode(latents).sum().backward()
    assert latents.grad is not None and latents.grad.abs().min() > 0


def test_a_backend_that_cannot_run_is_refused_by_name():
    vae, latents = build(SAME), random_latents(SAME, 2)
    vae.decode_with_(DecodeOptions(backend="triton"))
    with torch.no_grad(), pytest.raises(BackendUnavailable, match="'triton' on cpu: it needs"):
        vae.decode(latents)
    vae.decode_with_(DecodeOptions(backend="reference"))
    with pytest.raises(BackendUnavailable, match="no backward, and a gradient is needed"):
        vae.decode(latents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": -1}, "vae_latents is at least 0, got -1: it is how many latent frames"),
        ({"tiles": 0}, "vae_tiles is at least 1, got 0.*Use 1 for whole frames"),
        ({"tiles": 65}, "vae_tiles is at most 64"),
        ({"backend": "cuda"}, "'cuda' runs no decoder: there are auto, triton, modules, reference"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodeOptions(**options)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("options", [{"latents": 1}, {"latents": 3}, {"latents": 2, "tiles": 3}])
def test_on_a_gpu_one_pass_gives_the_bits_of_many(options, dtype):
    torch.manual_seed(0)
    vae = WanVAE(POCKET_VAE).eval().requires_grad_(False).to("cuda", dtype)
    vae.channels_last_()
    latents = torch.randn(1, 24, 7, 16, 24, device="cuda", dtype=dtype)
    made = []
    for backend in ("triton", "reference"):
        vae.decode_with_(DecodeOptions(**options, backend=backend))
        with torch.no_grad():
            first, state = vae.decode_block(latents[:, :, :4])
            second, state = vae.decode_block(latents[:, :, 4:], state)
        made.append((first, second, *state.history))
    assert all(map(torch.equal, *made))
