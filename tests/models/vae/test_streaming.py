"""In pieces as in one: any split of a video, carried through explicit state."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from longlive_models.vae import DecodeOptions, StreamState
from tests.models.vae.tiny import (
    CONFIGS,
    GROWING,
    SAME,
    build,
    difference,
    random_latents,
    random_video,
)

EXACT = 1e-11
VAES = {config: build(config) for config in CONFIGS}
pieces = st.lists(st.integers(1, 3), min_size=2, max_size=4)
few = settings(max_examples=10)


@few
@given(st.sampled_from(CONFIGS), pieces, st.integers(1, 2))
def test_decoding_in_blocks_equals_decoding_whole(config, sizes, batch):
    vae, latents = VAES[config], random_latents(config, sum(sizes), batch=batch)
    with torch.no_grad():
        state, parts = None, []
        for piece in latents.split(sizes, 2):
            video, state = vae.decode_block(piece, state)
            parts.append(video)
        assert difference(torch.cat(parts, 2), vae.decode(latents)) < EXACT
    assert parts[0].shape[2] == config.pixel_frames(sizes[0])


@few
@given(st.sampled_from(CONFIGS), pieces, st.integers(1, 2))
def test_encoding_in_blocks_equals_encoding_whole(config, sizes, batch):
    vae = VAES[config]
    groups = [size * config.temporal_stride for size in sizes]
    groups[0] += 1
    video = random_video(config, sum(groups), batch=batch)
    with torch.no_grad():
        state, parts = None, []
        for piece in video.split(groups, 2):
            latents, state = vae.encode_block(piece, state)
            parts.append(latents)
        assert difference(torch.cat(parts, 2), vae.encode(video)) < EXACT


@pytest.mark.parametrize("config", CONFIGS)
def test_without_gradients_long_videos_go_in_pieces_with_the_same_result(config):
    vae = VAES[config]
    video, latents = random_video(config, config.pixel_frames(11)), random_latents(config, 11)
    with torch.no_grad():
        encoded, decoded = vae.encode(video), vae.decode(latents)
    assert difference(encoded, vae.encode(video)) < EXACT
    assert difference(decoded, vae.decode(latents)) < EXACT


def test_a_state_survives_a_file_bit_for_bit():
    vae, latents = VAES[GROWING], random_latents(GROWING, 4, batch=2)
    with torch.no_grad():
        _, state = vae.decode_block(latents[:, :, :2])
        restored = StreamState.from_tensors(load(save(state.to_tensors())))
        got, _ = vae.decode_block(latents[:, :, 2:], restored)
        want, _ = vae.decode_block(latents[:, :, 2:], state)
    assert torch.equal(got, want)
    assert state.bytes == restored.bytes > 0


def test_going_on_from_an_earlier_state_is_a_rewind():
    vae, latents = VAES[SAME], random_latents(SAME, 5)
    with torch.no_grad():
        _, early = vae.decode_block(latents[:, :, :2])
        once, later = vae.decode_block(latents[:, :, 2:], early)
        vae.decode_block(latents[:, :, :3], later)
        again, _ = vae.decode_block(latents[:, :, 2:], early)
    assert torch.equal(once, again)


def test_a_state_does_not_keep_whole_blocks_alive():
    vae = VAES[SAME]
    with torch.no_grad():
        _, state = vae.decode_block(random_latents(SAME, 4))
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in state.history)


def test_a_state_of_another_stream_is_refused():
    vae, latents = VAES[SAME], random_latents(SAME, 2)
    with torch.no_grad():
        _, state = vae.decode_block(latents)
        _, encoder_state = vae.encode_block(random_video(SAME, 5))
        for wrong in (encoder_state, StreamState(state.history[:-1]), StreamState(())):
            with pytest.raises(ValueError, match="Pass the state that the call before returned"):
                vae.decode_block(latents, wrong)
        with pytest.raises(ValueError, match=r"expected 20 and \(2, 2, 1, 2, 3\)"):
            vae.decode_block(latents.repeat(2, 1, 1, 1, 1), state)
        with pytest.raises(ValueError, match="does not belong to this stream"):
            vae.encode_block(random_video(SAME, 4), state)


def test_a_state_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="history.0 to history.1, got .*history.2"):
        StreamState.from_tensors({"history.0": torch.ones(1), "history.2": torch.ones(1)})


@pytest.mark.parametrize("how", [{}, {"latents": 1}, {"latents": 1, "tiles": 2}])
@pytest.mark.parametrize("spend", [False, True])
def test_a_spent_state_is_let_go_of_layer_by_layer_and_gives_the_same_frames(how, spend):
    vae, latents = build(GROWING), random_latents(GROWING, 4)
    vae.decode_with_(DecodeOptions(**how))
    with torch.no_grad():
        _, state = vae.decode_block(latents[:, :, :2])
        want, wanted = vae.decode_block(latents[:, :, 2:], StreamState(state.history))
        first = weakref.ref(state.history[0])
        alive: list[bool] = []
        vae.decoder.head[2].register_forward_pre_hook(lambda *_: alive.append(first() is not None))
        frames, after = vae.decode_block(latents[:, :, 2:], state, spend=spend)
    assert torch.equal(frames, want)
    for one, other in zip(after.history, wanted.history, strict=True):
        assert torch.equal(one, other)
    assert set(alive) == {not spend}
    assert (state.history == ()) is spend
