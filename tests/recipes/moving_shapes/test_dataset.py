"""Drawn frames and encoded clips: windows of the pool, the latent cache, ids, positions, masks."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import Window
from longlive_models.objectives import shot_anchors, teacher_forcing_mask
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_recipes.moving_shapes.clips import ClipFormat, clip, draw, vocabulary
from longlive_recipes.moving_shapes.dataset import (
    FramePool,
    LatentClips,
    TokenClips,
    encode_clips,
    from_bytes,
    to_bytes,
)

CPU = torch.device("cpu")
WORLD = ClipFormat(size=16)


@pytest.fixture(scope="module")
def pool():
    return FramePool.draw(WORLD, 3, seed=4, device=CPU)


def numbered_pool() -> FramePool:
    """4 clips of 7 frames of 3 by 3 pixels, each of which has a number of its own."""
    grid = torch.arange(4 * 7 * 9, dtype=torch.uint8).view(4, 1, 7, 3, 3)
    return FramePool(grid.expand(-1, 3, -1, -1, -1).contiguous(), grid)


def test_a_pool_is_what_is_drawn(pool):
    made = [clip(4, index, clip_format=WORLD, blocks=2) for index in range(3)]
    video, coverage = draw(made, objects=True)
    assert pool.frames.shape == (3, 3, 61, 16, 16)
    assert torch.equal(pool.frames, to_bytes(video))
    assert (from_bytes(pool.frames) - video).abs().max() <= 1 / 255 + 1e-6
    assert (pool.coverage.float() / 255 - coverage).abs().max() <= 0.5 / 255 + 1e-6


def test_a_pool_does_not_depend_on_how_many_are_drawn_together(pool):
    more = FramePool.draw(WORLD, 66, seed=4, device=CPU, blocks=1)
    fewer = FramePool.draw(WORLD, 65, seed=4, device=CPU, blocks=1)
    assert torch.equal(more.frames[:65], fewer.frames)
    assert torch.equal(pool.first(2).frames, pool.frames[:2])
    assert torch.equal(pool.first(2).coverage, pool.coverage[:2])


@given(st.integers(0, 2**40), st.integers(1, 7), st.integers(1, 6))
def test_windows_are_windows_of_the_pool(seed, length, count):
    pool = numbered_pool()
    video, coverage = pool.windows(count, length, torch.Generator().manual_seed(seed))
    assert video.shape == (count, 3, length, 3, 3)
    assert coverage.shape == (count, 1, length, 3, 3)
    pictures = to_bytes(video)
    assert torch.equal(pictures[:, :1], (coverage * 255).round().to(torch.uint8))
    whole = pool.coverage[:, 0]
    for dims in ((), (-1,), (-2,), (-1, -2)):
        found = [
            any(
                torch.equal(window.flip(dims), whole[which, first : first + length])
                for which in range(4)
                for first in range(7 - length + 1)
            )
            for window in pictures[:, 0]
        ]
        if all(found):
            return
    raise AssertionError("a window is no run of frames of one clip, mirrored like the others")


def test_windows_come_from_everywhere_and_are_mirrored_in_half_the_draws():
    pool, generator = numbered_pool(), torch.Generator().manual_seed(0)
    firsts, mirrored = set(), 0
    for _ in range(200):
        video, _ = pool.windows(1, 7, generator)
        picture = to_bytes(video)[0, 0, 0]
        mirrored += bool(picture[0, 0] > picture[0, 1])
        firsts.add(int(picture.min()) // 63)
    assert firsts == set(range(4))
    assert 70 < mirrored < 130
    starts = {
        int(to_bytes(pool.windows(1, 3, generator)[0])[0, 0, 0].min()) % 63 // 9 for _ in range(200)
    }
    assert starts == set(range(5))


def test_a_crop_is_cut_out_of_its_window_around_the_object():
    """An object of 3 x 3 pixels on numbered ground, also across the edges of the picture."""
    side, crop = 24, 12
    ground = torch.arange(side * side).remainder(251).view(side, side).to(torch.uint8)
    for y, x in ((12, 5), (0, 23), (23, 12)):
        coverage = torch.zeros(1, 1, 3, side, side, dtype=torch.uint8)
        rows, columns = ([(c + d) % side for d in (-1, 0, 1)] for c in (y, x))
        coverage[..., torch.tensor(rows)[:, None], torch.tensor(columns)] = 255
        pool = FramePool(ground.expand(1, 3, 3, side, side).clone(), coverage)
        for seed in range(12):
            video, cover = pool.windows(4, 3, torch.Generator().manual_seed(seed), crop=crop)
            assert video.shape == (4, 3, 3, crop, crop)
            assert cover.shape == (4, 1, 3, crop, crop)
            assert (cover.flatten(1).sum(1) > 0).all()
            squares = ground.unfold(0, crop, 1).unfold(1, crop, 1).flatten(0, 1)
            covers = coverage[0, 0, 0].unfold(0, crop, 1).unfold(1, crop, 1).flatten(0, 1)
            for picture, covered in zip(to_bytes(video), cover, strict=True):
                places = {
                    int(place)
                    for dims in ((), (-1,), (-2,), (-1, -2))
                    for place in (squares == picture[0, 0].flip(dims)).all(2).all(1).nonzero()
                    if torch.equal(covers[place][0], (covered[0, 0].flip(dims) * 255).byte())
                }
                assert len(places) == 1, "a crop is a square of the picture, with its coverage"
                assert torch.equal(picture, picture[:1, :1].expand_as(picture))


@pytest.mark.parametrize("crop", [0, 4])
def test_a_crop_larger_than_the_picture_is_refused(crop):
    with pytest.raises(ValueError, match=f"square of {crop} pixels .* pictures of 3 x 3"):
        numbered_pool().windows(1, 1, torch.Generator(), crop=crop)


@pytest.mark.parametrize("length", [0, 8])
def test_a_window_longer_than_the_clips_is_refused(length):
    with pytest.raises(ValueError, match=f"a window of {length} frames .* clips of 7"):
        numbered_pool().windows(1, length, torch.Generator())


def test_batches_are_all_clips_in_order(pool):
    batches = list(pool.batches(2))
    assert [len(video) for video, _ in batches] == [2, 1]
    assert torch.equal(torch.cat([to_bytes(video) for video, _ in batches]), pool.frames)
    assert all(coverage.max() <= 1 for _, coverage in batches)


@given(st.integers(0, 255))
def test_bytes_survive_being_numbers(value):
    byte = torch.tensor(value, dtype=torch.uint8)
    assert to_bytes(from_bytes(byte)) == byte
    assert -1 <= from_bytes(byte) <= 1


def shrink(video: torch.Tensor) -> torch.Tensor:
    """Stands for an encoder: every fourth frame, at half the size."""
    return video[:, :, ::4, ::2, ::2]


@pytest.fixture(scope="module")
def clips():
    made = [clip(9, index, clip_format=WORLD, blocks=6) for index in range(24)]
    return encode_clips(shrink, made, device=CPU, batch=7)


def test_encoded_clips_keep_their_captions_and_cuts(clips):
    made = [clip(9, index, clip_format=WORLD, blocks=6) for index in range(24)]
    assert len(clips) == 24
    assert clips.latents.shape == (24, 3, 48, 8, 8)
    assert torch.equal(clips.latents[20], shrink(draw(made[20:21]))[0].bfloat16())
    assert clips.captions == tuple(one.captions for one in made)
    assert clips.cuts.tolist() == [list(one.cuts) for one in made]
    assert clips.cuts.any()
    assert not clips.cuts[:, 0].any()


def test_a_latent_cache_gives_back_what_was_put_in(clips, tmp_path):
    source = {"seed": 9, "world": {"size": 16}}
    clips.save(tmp_path / "deep" / "cache", source)
    again = LatentClips.load(tmp_path / "deep" / "cache", source, CPU)
    assert again.latents.dtype == clips.latents.dtype
    assert torch.equal(again.latents, clips.latents)
    assert torch.equal(again.cuts, clips.cuts)
    assert again.captions == clips.captions


def test_a_latent_cache_of_something_else_is_refused(clips, tmp_path):
    clips.save(tmp_path / "cache", {"seed": 9, "world": {"size": 16}})
    with pytest.raises(ValueError, match=r"from other clips \(seed: 9 -> 8\): .*latent_cache"):
        LatentClips.load(tmp_path / "cache", {"seed": 8, "world": {"size": 16}}, CPU)


def test_a_latent_cache_is_there_whole_or_not_at_all(clips, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(json, "dumps", full_disk)  # the last files to be written
    with pytest.raises(OSError, match="no space"):
        clips.save(tmp_path / "cache", {})
    assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    clips.save(tmp_path / "cache", {})
    assert [folder.name for folder in tmp_path.iterdir()] == ["cache"]


@pytest.fixture(scope="module")
def text():
    return PocketTextEncoder(PocketTextConfig(vocab=vocabulary(), dim=16, num_heads=2))


@pytest.fixture(scope="module")
def tokens(clips, text):
    return TokenClips.of(
        clips, text, window=Window(), frames_per_block=8, tokens_per_frame=4, shot_offset=8.0
    )


def test_prompts_of_cuts_carry_the_prefix(clips, tokens, text):
    prefix = text.tokenizer.detokenize(text.tokenize([SCENE_CUT_PREFIX])[0])
    for ids, captions, cuts in zip(tokens.ids, clips.captions, clips.cuts, strict=True):
        for row, caption, cut in zip(ids, captions, cuts, strict=True):
            words = text.tokenizer.detokenize(row)
            assert words.startswith(prefix) == bool(cut)
            assert words.removeprefix(prefix).strip() == text.tokenizer.detokenize(
                text.tokenize([caption])[0]
            )
    assert (tokens.ids != text.tokenizer.UNKNOWN).all()


def test_tables_are_the_teacher_forcing_mask_of_each_clip(clips, tokens):
    some = tokens.draw(24, torch.Generator().manual_seed(1))
    masks = tokens.mask(some)
    assert masks.run == 32
    for got, which in zip(masks.dense(CPU), some.tolist(), strict=True):
        starts = shot_anchors(6, clips.cuts[which].nonzero().flatten().tolist())
        mask = teacher_forcing_mask(48, 4, 8, policy=Window(), shot_starts=starts)
        assert torch.equal(got[0], mask.dense(CPU))
    assert len({tuple(table.flatten().tolist()) for table in tokens.tables}) > 2


def test_positions_jump_at_cuts(clips, tokens):
    assert tokens.positions.dtype == torch.float32
    for positions, cuts in zip(tokens.positions, clips.cuts, strict=True):
        steps = positions.diff()
        expected = torch.ones(47)
        expected[7::8] += 8.0 * cuts[1:].float()
        assert positions[0] == 0
        assert torch.equal(steps, expected)


def test_a_draw_is_a_function_of_its_generator(tokens):
    one, again, other = (tokens.draw(5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
