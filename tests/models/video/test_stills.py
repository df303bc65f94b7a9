"""A picture is one frame and a clip several, whatever their files are called."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longlive_models.clip import Clip
from longlive_models.first_frame import load_image
from longlive_models.video import Video
from longlive_models.video.picture import picture_of
from longlive_models.video.stills import read_still, shows_several
from longlive_models.video.timed import video_facts

SHOWS = "is a video, and an image is one picture, .* is named with video"
STANDS = "is a picture, and a video goes on from a clip, .* is named with image"


def drawn(frames: int) -> list[Image.Image]:
    """Pictures that differ, which savers of animations would join otherwise."""
    return [Image.new("RGB", (32, 16), (80 * number, 40, 0)) for number in range(frames)]


def moving(path: Path, frames: int) -> Path:
    first, *rest = drawn(frames)
    first.save(path, save_all=True, append_images=rest, duration=100)
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_clip_and_no_picture(suffix, tmp_path):
    path = moving(tmp_path / f"three.{suffix}", 3)
    assert shows_several(path)
    with pytest.raises(ValueError, match=SHOWS):
        load_image(path)
    assert Clip.open(path, 8).seconds == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "jpg", "bmp", "tiff"])
def test_one_frame_is_a_picture_and_no_clip(suffix, tmp_path):
    path = tmp_path / f"one.{suffix}"
    drawn(1)[0].save(path)
    assert not shows_several(path)
    assert load_image(path).shape == (16, 32, 3)
    with pytest.raises(ValueError, match=STANDS):
        Clip.open(path, 8)


def test_a_file_is_told_by_what_it_holds_not_by_its_name(tmp_path):
    frames = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    Video(frames, 8).save(tmp_path / "clip.mp4")
    (tmp_path / "clip.mp4").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a.png {SHOWS}"):
        read_still(tmp_path / "a.png")
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.mp4")
    assert read_still(tmp_path / "b.mp4").shape == (16, 32, 3)
    with pytest.raises(ValueError, match=rf"b.mp4 {STANDS}"):
        Clip.open(tmp_path / "b.mp4", 8)


def test_a_video_of_one_frame_is_a_picture(tmp_path):
    Video(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), 8).save(tmp_path / "one.mp4")
    assert load_image(tmp_path / "one.mp4").shape == (32, 32, 3)


def test_frames_and_pictures_in_memory_are_told_apart():
    frames = torch.zeros(8, 16, 16, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="frames of a clip, .* are video=."):
        load_image(frames)
    with pytest.raises(ValueError, match="what a video goes on from is video=."):
        load_image(Video(frames, 8))
    for picture in (frames[0], drawn(1)[0]):
        with pytest.raises(ValueError, match="one picture that a video begins with is image=."):
            Clip.open(picture, 8)


def test_a_picture_that_is_sent_does_not_move(tmp_path):
    data = moving(tmp_path / "three.webp", 3).read_bytes()
    with pytest.raises(ValueError, match="the picture moves: it has 3 frames"):
        picture_of(data, most_pixels=10_000)
    assert picture_of(moving(tmp_path / "one.webp", 1).read_bytes(), most_pixels=10_000).shape


@pytest.mark.parametrize("frames", [1, 3])
def test_a_picture_among_clips_is_told(frames, tmp_path):
    path = moving(tmp_path / "a.gif", frames)
    with pytest.raises(ValueError, match="a.gif is a picture, or pictures that move, and a clip"):
        video_facts(path)


def test_the_way_out_names_files_of_the_kind_that_is_wanted(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"as an image: .*\. Name a png or jpg file that is whole"):
        load_image(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"as a video: .*\. Name a video, as mp4, mov, mkv, webm"):
        Clip.open(tmp_path / "a.txt", 8)
