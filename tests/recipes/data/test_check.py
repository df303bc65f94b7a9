"""A check draws what the model gets, and counts what preparing will make."""

import torch

from longlive_models.first_frame import image_to_pixels
from longlive_models.video import read_image, read_video
from longlive_recipes.data.check import check
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.prepare import prepare
from tests.recipes.data.made_clips import caption, folder_of_clips, stories, tiny, write_clip


def test_the_sheet_has_the_first_frame_of_each_video_as_the_model_gets_it(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (30, 31, 64))
    check(tiny(vae), find_sources(clips), sheet=tmp_path / "deep" / "sheet.png")
    sheet = read_image(tmp_path / "deep" / "sheet.png")
    assert sheet.shape == (4 + 36, 4 + 3 * 36, 3)
    for number in range(3):
        frames, _ = read_video(clips / f"{number}.mp4")
        shown = sheet[4:36, 4 + 36 * number : 36 + 36 * number]
        wanted = (image_to_pixels(frames[0], 32, 32)[0, :, 0].permute(1, 2, 0) + 1) * 127.5
        assert torch.equal(shown, wanted.round().to(torch.uint8))


def test_what_is_counted_is_what_is_prepared(tmp_path, vae):
    config = tiny(vae, blocks=3)
    found = find_sources(stories(tmp_path / "clips"))
    seen = check(config, found)
    made = prepare(config, found, tmp_path / "cache")
    assert seen.clips == made.by_blocks
    assert seen.bytes <= made.bytes <= seen.bytes + 2048
    assert (seen.layout, seen.videos, seen.device) == ("stories", 2, "cpu")
    assert 0 < seen.hours < 0.1
    assert seen.used <= seen.seconds
    assert (seen.words, seen.longest_caption) == (8, 4)


def test_what_a_check_leaves_out_is_what_preparing_leaves_out(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (40,))
    caption(write_clip(clips / "short.mp4", 5), "x")
    (clips / "text.mp4").write_text("no video")
    found = find_sources(clips)
    assert check(tiny(vae), found).skipped == prepare(tiny(vae), found, tmp_path / "c").skipped


def test_what_misses_a_block_by_a_few_frames_is_named(tmp_path, vae):
    """29 frames make the first block, 32 each later one."""
    clips = folder_of_clips(tmp_path / "clips", (29, 60, 61, 57, 56, 93 + 31))
    seen = check(tiny(vae), find_sources(clips))
    found = {one.name: one.frames for one in seen.near}
    assert found == {"1.mp4": 1, "3.mp4": 4}
    caption(write_clip(clips / "short.mp4", 28), "x")
    [short] = check(tiny(vae), find_sources(clips)).skipped
    assert short.reason.endswith("1 of its 29 frames are missing")
