"""Fragments of a growing mp4: their places, their bytes, and the pictures in them."""

import io

import pytest
import torch
from PIL import Image

from longlive_models.video.files import VideoWriter, read_video
from longlive_models.video.fragments import FragmentIndex, codec_name, pictures


def moving(frames: int, start: int = 0) -> torch.Tensor:
    """A gray that gets lighter with each frame, so that frames cannot be taken for each other."""
    shades = torch.arange(start, start + frames) * 8
    return shades.to(torch.uint8)[:, None, None, None].expand(frames, 16, 32, 3).contiguous()


def test_the_index_grows_with_the_file_and_covers_every_byte(tmp_path):
    path = tmp_path / "a.mp4"
    index = FragmentIndex(path)
    assert index.refresh() == [] and index.end == index.frames == 0
    with VideoWriter(path, fps=12, size=(16, 32)) as writer:
        writer.write(moving(5))
        [first] = index.refresh()
        writer.write(moving(8, 5))
        [second] = index.refresh()
        assert index.refresh() == []
    assert (first.index, first.first, first.frames) == (0, 0, 5)
    assert (second.index, second.first, second.frames) == (1, 5, 8)
    assert index.header == first.start and first.end == second.start
    assert index.end == second.end == path.stat().st_size and index.frames == 13
    parts = [index.read_header(), *(index.read(f.start, f.end) for f in index.fragments)]
    assert b"".join(parts) == path.read_bytes()
    again = FragmentIndex(path)
    assert again.refresh() == index.fragments


def test_a_fragment_that_is_not_whole_is_left_for_later(tmp_path):
    path, cut = tmp_path / "a.mp4", tmp_path / "b.mp4"
    with VideoWriter(path, fps=12, size=(16, 32)) as writer:
        writer.write(moving(5))
        writer.write(moving(8, 5))
    whole = path.read_bytes()
    cut.write_bytes(whole[:-1])
    index = FragmentIndex(cut)
    assert len(index.refresh()) == 1
    cut.write_bytes(whole)
    assert [fragment.index for fragment in index.refresh()] == [1]


def test_the_codec_is_the_one_of_the_stream(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=12, size=(16, 32)) as writer:
        writer.write(moving(5))
    index = FragmentIndex(path)
    index.refresh()
    header = index.read_header()
    place = header.index(b"avcC")
    sps = header[place + 4 + 8 : place + 4 + 12]  # the sequence's parameters repeat the three
    assert sps[0] & 31 == 7
    assert codec_name(header) == f"avc1.{sps[1:4].hex().upper()}"
    with pytest.raises(ValueError, match="names no H.264 video"):
        codec_name(header[: place + 2])


@pytest.mark.parametrize(("kind", "format"), [("png", "PNG"), ("jpeg", "JPEG")])
def test_pictures_are_the_frames_of_their_fragment(tmp_path, kind, format):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, fps=12, size=(16, 32)) as writer:
        writer.write(moving(5))
        writer.write(moving(8, 5))
    frames, _ = read_video(path)
    index = FragmentIndex(path)
    index.refresh()
    fragment = index.fragments[1]
    made = pictures(index.read_header(), index.read(fragment.start, fragment.end), kind)
    assert len(made) == 8
    for data, frame in zip(made, frames[5:], strict=True):
        image = Image.open(io.BytesIO(data))
        assert image.format == format and image.size == (32, 16)
        shade = image.convert("RGB").getpixel((3, 3))[0]
        assert abs(shade - int(frame[3, 3, 0])) <= (0 if kind == "png" else 2)


def test_only_kinds_that_browsers_show_are_made():
    with pytest.raises(ValueError, match="png or jpeg, got 'bmp'"):
        pictures(b"", b"", "bmp")
