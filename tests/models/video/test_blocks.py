"""A video in memory: what it takes, and the ways out of it: arrays, images, notebooks, files."""

import base64
import io
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

from longlive_core.testing import assert_bitwise_equal
from longlive_models import Video
from longlive_models.video.blocks import decoder, no_frames, to_frames
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import tiny_parts, write_tiny_folder

GRADIENT = (torch.arange(6 * 16 * 24 * 3) % 251).to(torch.uint8).reshape(6, 16, 24, 3)


def noise(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator).to(torch.uint8)


def test_an_array_has_the_frames():
    array = Video(GRADIENT, 12).numpy()
    assert (array.dtype, array.shape) == (np.uint8, (6, 16, 24, 3))
    assert (array == GRADIENT.numpy()).all()


def test_images_are_the_frames():
    images = Video(GRADIENT, 12).pil()
    assert all(isinstance(one, Image.Image) for one in images)
    assert [(one.size, one.mode) for one in images] == [((24, 16), "RGB")] * 6
    assert_bitwise_equal(torch.from_numpy(np.stack([np.array(one) for one in images])), GRADIENT)


def embedded(html: str) -> bytes:
    return base64.b64decode(html.split('src="data:video/mp4;base64,')[1].split('"')[0])


@pytest.mark.parametrize(("height", "width"), [(16, 24), (15, 23)])
def test_a_notebook_shows_a_player_with_the_whole_video(height, width):
    frames = torch.full((6, height, width, 3), 200, dtype=torch.uint8)
    html = Video(frames, 12)._repr_html_()
    assert html.startswith("<video controls") and f'width="{width}" height="{height}"' in html
    data = embedded(html)
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it is read
    assert b"moof" not in data
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.codec_context.pix_fmt) == (12, "yuv420p")
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == 6
    assert np.abs(np.stack(shown)[:, :height, :width].astype(int) - 200).max() <= 3


def test_a_notebook_is_spared_what_is_too_large(monkeypatch):
    monkeypatch.setattr("longlive_models.video.html.MOST_BYTES", 1000)
    html = Video(noise(6, 16, 24), 12)._repr_html_()
    assert "base64" not in html and "6 frames, 0.5 s" in html and "save()" in html


def test_32_mib_are_embedded_and_a_byte_more_is_not(monkeypatch):
    most = 32 * 1024 * 1024
    for size, embeds in ((most, True), (most + 1, False)):
        monkeypatch.setattr("longlive_models.video.html._mp4", lambda *video, n=size: b"0" * n)
        html = Video(GRADIENT, 12)._repr_html_()
        assert ("base64" in html) == embeds
        assert ("its 34 MB are too many" in html) != embeds


def test_a_video_without_frames_is_a_sentence_in_a_notebook():
    assert Video(GRADIENT[:0], 12)._repr_html_() == "<p>a video without frames</p>"


def test_a_video_says_in_short_what_it_is():
    video = Video(GRADIENT, 12)
    assert repr(video) == "Video(6 frames of 24x16 at 12 a second)"
    assert len(video) == 6


def unchecked(frames: object, fps: object) -> Video:
    """As outside of these tests, which check annotations themselves."""
    video = object.__new__(Video)
    object.__setattr__(video, "frames", frames)
    object.__setattr__(video, "fps", fps)
    video.__post_init__()
    return video


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        (GRADIENT.numpy(), "array"),
        (GRADIENT.float(), r"torch.float32 \[6, 16, 24, 3\]"),
        (GRADIENT[0], r"torch.uint8 \[16, 24, 3\]"),
        (GRADIENT.permute(0, 3, 1, 2), r"torch.uint8 \[6, 3, 16, 24\]"),
        ("a.mp4", "'a.mp4'"),
    ],
)
def test_frames_of_another_kind_are_refused(frames, got):
    with pytest.raises(ValueError, match=f"uint8 tensor .frames, height, width, 3., got .*{got}"):
        unchecked(frames, 12)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "12", None, True])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(ValueError, match="fps is .*how many frames are shown in a second"):
        unchecked(GRADIENT, fps)


def test_the_same_frames_play_at_another_rate(tmp_path):
    video = Video(GRADIENT, 12)
    frames, fps = read_video(video.save(tmp_path / "a.gif", fps=25))
    own, _ = read_video(video.save(tmp_path / "own.gif"))
    assert (fps, video.fps) == (25, 12)
    assert_bitwise_equal(frames, own)
    frames, fps = read_video(video.save(tmp_path / "a.mp4", fps=24))
    assert (fps, len(frames)) == (24, 6)


def test_quality_decides_size_and_the_default_is_16(tmp_path):
    video = Video(noise(6, 32, 32), 12)
    sizes = [video.save(tmp_path / f"{crf}.mp4", crf=crf).stat().st_size for crf in (0, 16, 40, 51)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert (tmp_path / "16.mp4").read_bytes() == video.save(tmp_path / "d.mp4").read_bytes()


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("a.mp4", {"crf": 52}, "crf is at most 51, got 52: it is the quality of an mp4"),
        ("a.mp4", {"crf": -1}, "crf is at least 0, got -1"),
        ("a.gif", {"crf": 20}, "crf=20 is the quality of an mp4, and .*a.gif is none"),
        ("a.png", {"crf": 20}, "crf=20 is the quality of an mp4, and .*a.png is none"),
        ("a.mp4", {"fps": 0}, "frames a second"),
        ("a.mp4", {"fps": float("nan")}, "frames a second"),
        ("a.webm", {}, "one of .mp4, .gif, .png"),
        ("a", {}, "one of .mp4, .gif, .png.*got ''"),
    ],
)
def test_what_no_file_can_be_is_refused_and_leaves_nothing(tmp_path, name, how, message):
    with pytest.raises(ValueError, match=message):
        Video(GRADIENT, 12).save(tmp_path / "new" / name, **how)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_made(tmp_path):
    path = Video(GRADIENT, 12).save(tmp_path / "new" / "videos" / "a.mp4")
    assert len(read_video(path)[0]) == 6


def test_wrong_types_are_refused_in_words_where_annotations_are_not_checked(tmp_path):
    """A user's process: there the functions themselves must see what they are given."""
    code = (
        "import torch\n"
        "from longlive_models import LongLivePipeline, Video\n"
        f"pipe = LongLivePipeline.from_pretrained({str(write_tiny_folder(tmp_path / 'm'))!r})\n"
        "video = Video(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), 8)\n"
        f"path = {str(tmp_path / 'a.mp4')!r}\n"
        "for call, expected in (\n"
        "    (lambda: Video([1], 8), 'frames are a uint8 tensor'),\n"
        "    (lambda: Video(video.frames, 'x'), 'fps is a finite number'),\n"
        "    (lambda: video.save(path, crf=20.5), 'crf is a whole number, got 20.5'),\n"
        "    (lambda: video.save(path, fps='x'), 'fps is a finite number'),\n"
        "    (lambda: pipe('a', on_step=5), 'on_step is a function'),\n"
        "    (lambda: pipe('a', on_block=5), 'on_block is a function'),\n"
        "    (lambda: pipe('a', negative_prompt=5), 'negative_prompt is a text, got 5'),\n"
        "):\n"
        "    try:\n"
        "        call()\n"
        "    except ValueError as error:\n"
        "        assert expected in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pixels_become_the_nearest_bytes():
    values = torch.tensor([-3.0, -1.0, -0.996, 0.0, 0.5, 0.996, 1.0, 1.5])
    frames = to_frames(values.expand(3, 2, 1, 8) * torch.tensor([1.0, 0.5, -1.0]).view(3, 1, 1, 1))
    assert (frames.shape, frames.dtype) == ((2, 1, 8, 3), torch.uint8)
    red, green, blue = frames[1, 0].unbind(1)
    assert red.tolist() == [0, 0, 1, 128, 191, 254, 255, 255]
    assert green.tolist() == [0, 64, 64, 128, 159, 191, 191, 223]
    assert blue.tolist() == [255, 255, 254, 128, 64, 1, 0, 0]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 2.0**21])
def test_pixels_that_are_no_numbers_do_not_become_bytes(wrong):
    video = torch.zeros(3, 2, 4, 4)
    video[1, 1, 2, 3] = wrong
    message = r"some of this video of shape \[3, 2, 4, 4\] are NaN, infinite or above 1048576"
    with pytest.raises(ValueError, match=message):
        to_frames(video)


def test_weights_of_a_decoder_are_looked_at_once():
    _, vae, _ = tiny_parts()
    decode, latents = decoder(vae), torch.randn(1, 4, 2, 4, 4)
    first, state = decode(latents, None)
    second, _ = decode(latents, state)
    assert [check.what for check in first.checks.of] == ["the frames", "weights of the VAE"]
    assert [check.what for check in second.checks.of] == ["the frames"]
    assert (first.frames.shape, second.frames.shape) == ((1, 5, 32, 32, 3), (1, 8, 32, 32, 3))
    assert not first.frames.requires_grad
    with torch.no_grad():
        vae.conv2.weight[0] = 2.0**64
    broken, _ = decoder(vae)(latents * 0, None)
    assert not broken.checks.passed[1]


def test_a_rank_that_decodes_nothing_has_no_frames():
    latents = torch.zeros(2, 4, 3, 6, 5)
    decoded, state = no_frames(latents, None)
    assert decoded.frames.shape == (2, 0, 6, 5, 3)
    assert (decoded.checks.of, state) == ((), None)
