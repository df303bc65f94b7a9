"""Clips come as a viewer shows them; of a file that was cut come the frames that are whole."""

import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from longlive_models.video.files import CutShort, VideoWriter, read_image, read_video, write_png
from tests.models.resident import peak
from tests.models.video.test_picture import off, over_white, scene, see_through

ONE = 1 << 16  # in the fixed point of an mp4's header


def written(path: Path, blocks: tuple[int, ...] = (8, 8, 8), fps: float = 12) -> Path:
    """A video whose frame n is grey, 10 n."""
    with VideoWriter(path, fps=fps, size=(32, 48)) as writer:
        for length in blocks:
            grey = torch.arange(writer.frames, writer.frames + length) * 10 % 250
            writer.write(grey.to(torch.uint8)[:, None, None, None].expand(-1, 32, 48, 3))
    return writer.path


def assert_greys(frames: Tensor, count: int) -> None:
    assert len(frames) == count
    want = torch.arange(count) * 10 % 250
    assert (frames.float().mean((1, 2, 3)) - want).abs().max() < 3


def encoded(path: Path, frames: np.ndarray, codec: str, pixels: str, **settings: object) -> Path:
    """A file as others write it."""
    kind = {".mkv": "matroska"}.get(path.suffix, path.suffix[1:])
    with open(path, "wb") as file, av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        stored = {3: "rgb24", 4: "rgba"}[frames.shape[3]]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=stored)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),  # clockwise, as phones store it
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), lambda stored: np.rot90(stored, 1)),
        ((-1, 0, 0, 1), lambda stored: stored[:, ::-1]),
        ((1, 0, 0, -1), lambda stored: stored[::-1]),
        ((0, 1, 1, 0), lambda stored: stored.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda stored: stored[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_a_clip_is_turned_as_its_header_says(matrix, shown, tmp_path):
    path = tmp_path / "turned.mp4"
    with VideoWriter(path, fps=12, size=(32, 48)) as writer:
        writer.write(torch.from_numpy(scene())[None].repeat(3, 1, 1, 1))
    data = bytearray(path.read_bytes())
    a, b, c, d = (ONE * value for value in matrix)
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    want = np.ascontiguousarray(shown(scene()))
    frames, _ = read_video(path)
    assert len(frames) == 3
    assert off(frames[2], want) < 6 and off(read_image(path), want) < 6


def test_pixels_that_are_no_squares_are_stretched(tmp_path):
    clip = scene()[None].repeat(2, 0)
    path = encoded(
        tmp_path / "wide.mkv", clip, "libx264", "yuv420p", sample_aspect_ratio=Fraction(4, 3)
    )
    assert off(read_video(path)[0][1], scene(width=64)) < 8


@pytest.mark.parametrize("codec", ["png", "qtrle"])
def test_a_clip_that_is_transparent_is_over_white(codec, tmp_path):
    alpha = see_through()
    clip = np.dstack([scene(), alpha])[None].repeat(2, 0)
    pixels = "rgba" if codec == "png" else "argb"
    path = encoded(tmp_path / "clear.mov", clip, codec, pixels)
    want = over_white(scene(), alpha)
    assert off(read_video(path)[0][1], want) < 1 and off(read_image(path), want) < 1


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_moving_picture_is_a_video_over_white(suffix, tmp_path):
    path = tmp_path / f"moving{suffix}"
    clear = np.dstack([scene(), np.where(see_through() > 100, 255, 0).astype(np.uint8)])
    images = [Image.fromarray(np.roll(clear, shift, 1)) for shift in range(5)]
    how = {"lossless": True} if suffix == ".webp" else {}
    how |= {"disposal": 1 if suffix == ".png" else 2}  # each on an empty canvas
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, **how)
    frames, fps = read_video(path)
    assert fps == pytest.approx(20) and len(frames) == 5
    for shift, frame in enumerate(frames):
        want = over_white(np.roll(scene(), shift, 1), np.roll(clear[..., 3], shift, 1))
        assert off(frame, want) < 1


def test_the_rate_of_a_moving_picture_is_that_of_all_its_frames(tmp_path):
    images = [Image.fromarray(np.roll(scene(), shift, 1)) for shift in range(4)]
    times = [10, 20, 30, 100]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=times)
    assert read_video(tmp_path / "a.gif")[1] == pytest.approx(4 / 0.16)
    images[0].save(tmp_path / "b.gif", save_all=True, append_images=images[1:], duration=0)
    assert read_video(tmp_path / "b.gif")[1] == pytest.approx(10)  # as browsers show it


@pytest.mark.parametrize("fps", [12, 16, 24, 30, 60, 100])
def test_a_gif_lasts_as_long_as_its_frames_whatever_its_blocks(fps, tmp_path):
    lengths = {(12,), (1,) * 12, (5, 4, 3), (7, 5)}
    for blocks in lengths:
        path = written(tmp_path / f"{len(blocks)}.gif", blocks, fps)
        with Image.open(path) as image:
            times = []
            for place in range(12):
                image.seek(place)
                times.append(image.info["duration"] // 10)
        ends = [round(100 * frame / fps) for frame in range(13)]
        assert times == [end - start for start, end in zip(ends, ends[1:], strict=False)]
        assert read_video(path)[1] == pytest.approx(fps, rel=0.5 * fps / 100 / 12)


def cut_places(length: int, start: int = 0, count: int = 23) -> list[int]:
    return [start + round((length - start) * part / count) for part in range(1, count)]


def test_a_cut_mp4_gives_the_blocks_before_the_cut(tmp_path):
    whole, part = written(tmp_path / "whole.mp4"), tmp_path / "part.mp4"
    sizes = [len(written(tmp_path / f"{n}.mp4", (8,) * n).read_bytes()) for n in (1, 2)]
    data = whole.read_bytes()
    for place in cut_places(len(data)):
        part.write_bytes(data[:place])
        blocks = sum(place >= size for size in sizes)
        if not blocks:
            begun = data.find(b"mdat") + 4 <= place
            told = "it ends inside its first block" if begun else "cannot be read as a video"
            with pytest.raises(ValueError, match=rf"part\.mp4 .*{told}"):
                read_video(part)
        elif place in sizes:
            assert_greys(read_video(part)[0], 8 * blocks)
        else:
            told = rf"part\.mp4 is cut: its first {8 * blocks} .* {place - sizes[blocks - 1]:,} byt"
            with pytest.warns(CutShort, match=told):
                frames, fps = read_video(part)
            assert fps == 12
            assert_greys(frames, 8 * blocks)


def test_boxes_of_every_length_are_whole(tmp_path):
    """Without a body, with a length in 64 bits, and the last with none: up to the file's end."""
    path = written(tmp_path / "a.mp4", (8, 8))
    data = path.read_bytes()
    last = data.rindex(b"mdat") - 4
    for other in (
        data + struct.pack(">I4s", 8, b"free"),
        data + struct.pack(">I4sQ", 1, b"free", 16),
        data[:last] + bytes(4) + data[last + 4 :],
    ):
        path.write_bytes(other)
        assert_greys(read_video(path)[0], 16)  # without a warning, which would be an error


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_a_cut_clip_of_others_gives_whole_frames_or_says_that_it_cannot(suffix, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)
    whole = encoded(tmp_path / f"whole{suffix}", frames, "libx264", "yuv420p")
    data, want = whole.read_bytes(), read_video(whole)[0]
    assert len(want) == 24
    part = tmp_path / f"part{suffix}"
    for place in cut_places(len(data), count=11):
        part.write_bytes(data[:place])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                got = read_video(part)[0]
            except ValueError as error:
                assert "cannot be read as a video" in str(error)
                continue
        assert torch.equal(got, want[: len(got)])
        assert [str(warning.message) for warning in told if warning.category is CutShort]


def test_a_cut_gif_gives_the_frames_before_the_cut(tmp_path):
    whole, part = written(tmp_path / "whole.gif"), tmp_path / "part.gif"
    data = whole.read_bytes()
    seen = set()
    for place in cut_places(len(data)):
        part.write_bytes(data[:place])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                frames, _ = read_video(part)
            except ValueError as error:
                assert "part.gif cannot be read" in str(error)
                continue
        assert "part.gif is cut: its first" in str(told[-1].message)
        assert_greys(frames, len(frames))
        seen.add(len(frames))
    assert len(seen) > 10


def test_a_folder_of_frames_is_a_video(tmp_path):
    folder = written(tmp_path / "clip.png")
    with pytest.raises(ValueError, match=r"clip is a folder of frames.*pass fps"):
        read_video(folder)
    frames, fps = read_video(folder, fps=12)
    assert fps == 12
    assert_greys(frames, 24)
    last = folder / "00023.png"
    last.write_bytes(last.read_bytes()[:60])
    with pytest.warns(CutShort, match=r"clip is cut: its first 23 .*00023\.png"):
        assert_greys(read_video(folder, fps=12)[0], 23)
    (folder / "00007.png").rename(tmp_path / "away.png")
    with pytest.raises(ValueError, match="lacks frame 7, and has frame 8"):
        read_video(folder, fps=12)
    write_png(folder / "00007.png", torch.zeros(4, 4, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"00007\.png is 4x4, and the frames before are 48x32"):
        read_video(folder, fps=12)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no frames"):
        read_video(tmp_path / "empty", fps=12)


def test_the_rate_can_be_given(tmp_path):
    assert read_video(written(tmp_path / "a.mp4"), fps=30)[1] == 30
    for fps in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="fps is"):
            read_video(tmp_path / "a.mp4", fps=fps)


def test_what_holds_no_video_is_refused_in_words(tmp_path):
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mp4 cannot .* without a video in it"):
        read_video(sound)
    with pytest.raises(ValueError, match=r"sound\.mp4 cannot be read as an image"):
        read_image(sound)


@pytest.mark.parametrize("name", ["a:b.mp4", "pipe:0.mp4", "-i.mp4", "%03d.mp4", "concat:x.gif"])
def test_a_name_is_a_path_whatever_it_looks_like(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_greys(read_video(str(written(Path(name))))[0], 24)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_that_lists_other_files_is_no_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.mp4")
    lists = {
        "list.mp4": "ffconcat version 1.0\nfile a.mp4\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.mp4\n#EXT-X-ENDLIST\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="cannot be read as a video"):
            read_video(name)


def test_reading_takes_the_memory_of_the_frames_once(tmp_path):
    """By what the system counts as the process's own, of 118 MB of frames."""
    path = tmp_path / "long.mp4"
    with VideoWriter(path, fps=12, size=(256, 256)) as writer:
        for _ in range(20):
            writer.write(torch.zeros(30, 256, 256, 3, dtype=torch.uint8))
    read_video(written(tmp_path / "first.mp4"))
    assert peak(lambda: read_video(path)) < 1.6 * 600 * 256 * 256 * 3


def test_frames_that_memory_cannot_hold_are_refused_first(tmp_path, monkeypatch):
    path = written(tmp_path / "a.mp4")
    monkeypatch.setattr("os.sysconf", lambda name: 300)
    with pytest.raises(ValueError, match=r"a\.mp4 holds 24 frames of 48x32, 110,592 b.* 90,0"):
        read_video(path)


def test_a_video_whose_frames_are_too_large_is_refused(tmp_path):
    path = encoded(tmp_path / "large.mov", scene()[None], "png", "rgb24")
    data = bytearray(path.read_bytes())
    place = data.index(b"png ", data.index(b"stsd")) + 28
    data[place : place + 4] = struct.pack(">HH", 10_000, 10_000)
    place = data.index(b"IHDR")
    data[place + 4 : place + 12] = struct.pack(">II", 10_000, 10_000)
    data[place + 17 : place + 21] = struct.pack(">I", zlib.crc32(data[place : place + 17]))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"large\.mov has 10000x10000 pixels"):
        read_video(path)
