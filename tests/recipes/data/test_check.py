"""A check draws what the model gets, and counts what preparing will make."""

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from longlive_models.first_frame import image_to_pixels
from longlive_models.video import read_image, read_video
from longlive_recipes.data.check import check
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.prepare import prepare
from tests.recipes.data.made_clips import (
    caption,
    folder_of_clips,
    stories,
    tiny,
    write_clip,
    write_with_av,
)


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


def damaged_within(path: Path) -> Path:
    """A video whose first frame is whole and whose others are not."""
    write_with_av(path, [Fraction(n, 12) for n in range(60)], codec="ffv1", pixels="yuv420p")
    with av.open(str(path)) as container:
        packets = [(one.pos, one.size) for one in container.demux(video=0) if one.size]
    raw = bytearray(path.read_bytes())
    for place, size in packets[1:]:
        for at in range(place + 20, place + size - 4):
            raw[at] ^= 0x5A
    path.write_bytes(bytes(raw))
    return path


def test_a_video_whose_shown_frame_is_damaged_is_left_out_and_the_sheet_has_the_others(
    tmp_path, vae
):
    clips = tmp_path / "clips"
    write_clip(clips / "whole.mp4", 40)
    damaged_within(clips / "damaged.mkv")
    lines = [
        {"path": "damaged.mkv", "caption": "a", "start": 1.0},
        {"path": "whole.mp4", "caption": "b"},
    ]
    table, sheet = clips / "clips.jsonl", tmp_path / "sheet.png"
    table.write_text("\n".join(json.dumps(line) for line in lines))
    config, found = tiny(vae), find_sources(table)
    seen = check(config, found, sheet=sheet)
    assert [one.name for one in seen.skipped] == ["damaged.mkv"]
    assert (seen.videos, read_image(sheet).shape) == (1, (40, 40, 3))
    assert seen.skipped == prepare(config, found, tmp_path / "cache").skipped
    table.write_text(json.dumps(lines[0]))
    with pytest.raises(ValueError, match=r"none of the 1 clips .* whole\. Mend them, or name"):
        check(config, find_sources(table), sheet=tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_what_misses_a_block_by_a_few_frames_is_named(tmp_path, vae):
    """29 frames make the first block, 32 each later one."""
    clips = folder_of_clips(tmp_path / "clips", (29, 60, 61, 57, 56, 93 + 31))
    seen = check(tiny(vae), find_sources(clips))
    found = {one.name: one.frames for one in seen.near}
    assert found == {"1.mp4": 1, "3.mp4": 4}
    caption(write_clip(clips / "short.mp4", 28), "x")
    [short] = check(tiny(vae), find_sources(clips)).skipped
    assert short.reason.endswith("1 of its 29 frames are missing")
