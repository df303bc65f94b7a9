"""Strips of a frame: they cover it once, and what lies outside of one does not reach its result."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.vae import POCKET_VAE, WAN22_VAE, DecodeOptions
from longlive_models.vae.tiles import halo_of, tiles_of
from tests.live_bytes import LiveBytes
from tests.models.vae.tiny import CONFIGS, GROWING, HALF, SAME, build, difference


@given(st.integers(1, 99), st.integers(1, 64), st.integers(0, 20))
def test_strips_cover_a_side_once_and_see_around_them(length, count, halo):
    count = min(count, length)
    tiles = list(tiles_of(length, count, halo))
    assert [place for tile in tiles for place in tile.kept] == list(range(length))
    for tile in tiles:
        assert len(tile.kept) in (length // count, -(-length // count))
        assert tile.seen.start == max(0, tile.kept.start - halo)
        assert tile.seen.stop == min(length, tile.kept.stop + halo)
        part = tile.kept_in_seen
        assert [tile.seen[i] for i in part.places] == list(tile.kept)
        assert part.length == len(tile.seen)


def test_halos_are_counted_from_the_layers():
    assert halo_of(WAN22_VAE) == 10  # (7 + 1) / 2 from the last stage, 6 of the one before
    assert halo_of(POCKET_VAE) == 7
    assert halo_of(replace(GROWING, num_res_blocks=2)) == 10


@pytest.mark.parametrize("config", CONFIGS)
def test_the_halo_is_as_wide_as_it_must_be_and_no_wider(config):
    """What a result depends on, measured: the input of the first tiled stage is changed."""
    from longlive_models.vae.streaming import History

    decoder, halo = build(config).decoder, halo_of(config)
    width = 2 * halo + 3
    x = torch.randn(1, config.decoder_dims[decoder.tiled], 1, 1, width, dtype=torch.float64)
    with torch.no_grad():
        made = decoder.top(x, History(None))
        scale = made.shape[4] // width
        for away, reached in ((halo, True), (halo + 1, False)):
            other = x.clone()
            other[..., halo + 1 - away] += 1
            now = decoder.top(other, History(None))
            places = slice((halo + 1) * scale, (halo + 2) * scale)
            assert bool((now - made)[..., places].abs().max() > 0) == reached, away


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("backend", ["modules", "reference"])
def test_tiles_give_the_frames_and_the_state_of_whole_frames(config, backend):
    """In float32, on frames that are wide and on frames that are high."""
    vae = build(config, torch.float32)
    for height, width in ((1, 13), (13, 1)):
        latents = torch.randn(1, 3, 4, height, width)
        made = []
        for options in (
            DecodeOptions(),
            DecodeOptions(tiles=2, backend=backend),
            DecodeOptions(tiles=5, latents=2, backend=backend),
        ):
            vae.decode_with_(options)
            with torch.no_grad():
                first, state = vae.decode_block(latents[:, :, :2])
                second, state = vae.decode_block(latents[:, :, 2:], state)
            made.append((torch.cat([first, second], 2), *state.history))
        for other in made[1:]:
            for one, two in zip(made[0], other, strict=True):
                assert difference(one, two) < 1e-5


@pytest.mark.parametrize(
    ("config", "backend", "tiles"),
    [(SAME, "modules", 2), (HALF, "modules", 9), (GROWING, "reference", 9)],
)
def test_a_state_that_is_spent_is_written_over_with_the_same_bits(config, backend, tiles):
    """Nine strips are narrower than what they see around them: seams reach over several of them."""
    vae = build(config, torch.float32)
    vae.decode_with_(DecodeOptions(tiles=tiles, latents=1, backend=backend))
    for height, width in ((1, 13), (13, 1)):
        blocks = torch.randn(1, 3, 6, height, width).split(2, 2)
        made = []
        for spend in (False, True):
            state, parts = None, []
            with torch.no_grad():
                for block in blocks:
                    frames, state = vae.decode_block(block, state, spend=spend)
                    parts.append(frames)
            made.append((*parts, *state.history))
        assert all(map(torch.equal, *made))


def test_a_state_that_is_shared_is_not_written_over():
    vae, latents = build(GROWING), torch.randn(1, 3, 4, 1, 6, dtype=torch.float64)
    vae.decode_with_(DecodeOptions(tiles=3, latents=1))
    with torch.no_grad():
        state = vae.decode_block(latents[:, :, :2])[1]
        kept = state.share()
        before = [frames.clone() for frames in kept.history]
        places = {frames.data_ptr() for frames in kept.history}
        first, later = vae.decode_block(latents[:, :, 2:], state, spend=True)
        assert state.history == () and later.owned
        assert not places & {frames.data_ptr() for frames in later.history}
        assert all(map(torch.equal, before, kept.history))
        again, last = vae.decode_block(latents[:, :, 2:], kept, spend=True)
        assert torch.equal(first, again)
        assert all(map(torch.equal, later.history, last.history))
        for one in (later.to(torch.device("cpu")), type(later).from_tensors(later.to_tensors())):
            assert not one.owned
        assert not later.owned, "its tensors are those of the copy on the same device"


def test_strips_of_a_spent_state_hold_it_once():
    """Beside one layer's part of it: what was there before is there twice without spending."""
    vae, latents = build(GROWING), torch.randn(1, 3, 2, 1, 80, dtype=torch.float64)
    vae.decode_with_(DecodeOptions(tiles=16, latents=1))
    peaks = {}
    for spend in (True, False):
        with torch.no_grad():
            state = vae.decode_block(latents)[1]
            with LiveBytes() as live:
                vae.decode_block(latents[:, :, :1], state, spend=spend)
            peaks[spend] = live.peak
    tiled = sum(frames.nbytes for frames in state.history[-9:])
    assert peaks[False] - peaks[True] > 0.8 * tiled


def test_more_tiles_than_positions_are_refused():
    vae = build(GROWING)
    vae.decode_with_(DecodeOptions(tiles=9))
    latents = torch.zeros(1, 3, 1, 1, 2, dtype=torch.float64)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="vae_tiles=9 are more than the 8 positions"),
    ):
        vae.decode(latents)
