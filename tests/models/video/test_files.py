"""Whatever a writer has reported is in a playable file, and comes back as it went in."""

import builtins
import errno
import os
import re
import resource
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.video.files import (
    ENCODER_THREADS,
    VideoWriter,
    check_rate,
    check_size,
    contact_sheet,
    destination,
    read_video,
    write_png,
)


def moving_square(frames: int, first: int = 0, height: int = 32, width: int = 48) -> Tensor:
    """A red square that moves right over navy, one pixel a frame."""
    clip = torch.zeros(frames, height, width, 3, dtype=torch.uint8)
    clip[..., 2] = 128
    for i in range(frames):
        left = (first + i) % (width - 16)
        clip[i, 8:24, left : left + 16] = torch.tensor([230, 30, 30], dtype=torch.uint8)
    return clip


def recording(path: Path, overwrite: bool = False) -> VideoWriter:
    return VideoWriter(path, fps=12, size=(32, 48), overwrite=overwrite)


def read(path: Path) -> Tensor:
    if path.is_dir():
        return torch.cat([read_video(image)[0] for image in sorted(path.iterdir())])
    return read_video(path)[0]


def assert_same_pictures(path: Path, want: Tensor) -> None:
    got = read(path)
    assert got.shape == want.shape
    difference = (got.int() - want.int()).abs().flatten(1).float().mean(1)
    if path.suffix == ".mp4":  # with loss, at the square's edges most of all
        assert difference.max() <= 6
        assert (middle(got) - middle(want)).abs().max() < 0.3  # it moves by 1 a frame
    else:
        assert difference.max() == 0


def middle(frames: Tensor) -> Tensor:
    """The column around which each frame is red, in pixels."""
    red = frames[..., 0].float().sum(1)
    return (red * torch.arange(red.shape[1])).sum(1) / red.sum(1)


@settings(max_examples=5)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_all_frames_are_in_the_file_after_every_write(suffix, lengths):
    with TemporaryDirectory() as folder, recording(Path(folder, f"clip{suffix}")) as writer:
        written = torch.empty(0, 32, 48, 3, dtype=torch.uint8)
        for length in lengths:
            block = moving_square(length, first=writer.frames)
            writer.write(block)
            written = torch.cat([written, block])
            assert writer.frames == len(written)
            assert_same_pictures(writer.path, written)  # not closed: as a killed process leaves it
        writer.close()
        assert_same_pictures(writer.path, written)


KILLED = """
import sys
import torch
from longlive_models.video.files import VideoWriter
with VideoWriter(sys.argv[1], fps=12, size=(32, 48)) as writer:
    while True:
        writer.write(torch.full((8, 32, 48, 3), writer.frames % 256, dtype=torch.uint8))
        print(writer.frames, flush=True)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_killed_process_leaves_every_reported_frame(suffix, tmp_path):
    path = tmp_path / f"clip{suffix}"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reported = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.send_signal(signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
    frames = read(path)
    assert len(frames) >= reported
    shown = frames[:reported, 0, 0].float().mean(1)
    assert (shown - (torch.arange(reported) // 8 * 8 % 256)).abs().max() <= 3


def test_the_frame_rate_is_stored(tmp_path):
    for fps in (12, 16, 24, 24000 / 1001):
        with VideoWriter(tmp_path / "clip.mp4", fps=fps, size=(32, 48), overwrite=True) as writer:
            writer.write(moving_square(29))
            writer.write(moving_square(32))
        assert read_video(writer.path)[1] == pytest.approx(fps, rel=1e-3)


def litter(seed: int) -> None:
    """Leave other numbers in memory that is free, for whoever reads what it never wrote."""
    sizes = [512, 2048, 3072, 6000, 12_000, 40_000, 130_000] * 50
    held = [
        torch.full((size,), (seed + n) % 256, dtype=torch.uint8) for n, size in enumerate(sizes)
    ]
    del held


@pytest.mark.slow
def test_the_same_frames_are_the_same_bytes(tmp_path):
    """Of 1,000 encodings: an encoder's lookahead that read unset memory gave 7 others."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    frames = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    frames = frames.permute(0, 2, 3, 1).contiguous()
    found = set()
    for number in range(1000):
        litter(number)
        with VideoWriter(tmp_path / "v.mp4", fps=8, size=(32, 32), overwrite=True) as writer:
            writer.write(frames)
        found.add((tmp_path / "v.mp4").read_bytes())
    assert len(found) == 1


@pytest.fixture
def short_writes(monkeypatch):
    """Files whose raw writes take 100 bytes at most, as the system may."""
    opened = builtins.open

    def open_short(path, mode="r", buffering=-1, **how):
        file = opened(path, mode, buffering, **how)
        if buffering != 0:
            return file
        return Short(file)

    class Short:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(memoryview(data)[:100])

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr(builtins, "open", open_short)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_writes_that_take_a_part_are_gone_on_with(suffix, short_writes, tmp_path):
    with recording(tmp_path / f"clip{suffix}") as writer:
        writer.write(moving_square(8))
        writer.write(moving_square(5, first=8))
    assert_same_pictures(writer.path, moving_square(13))


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_a_block_that_does_not_fit_is_not_reported(suffix, tmp_path):
    """A limit on the size of files does what a full disk does: it takes a part of a block."""
    noise = torch.randint(0, 256, (4, 32, 48, 3), dtype=torch.uint8)
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"clip{suffix}"
    for target, blocks in ((whole, 1), (path, 2)):
        with recording(target) as writer:
            writer.write(moving_square(8))
            if blocks == 1:
                continue
            size = 3000 if suffix == ".png" else writer.path.stat().st_size + 500
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                with pytest.raises(OSError, match="frames 8 to 11 .* 8 frames before it") as error:
                    writer.write(noise)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert error.value.filename == str(writer.path) and error.value.errno == errno.EFBIG
            assert writer.frames == 8
            assert_same_pictures(writer.path, moving_square(8))
            if suffix != ".png":
                assert path.read_bytes() == whole.read_bytes()
            writer.write(moving_square(3, first=8))  # there is room again
            assert_same_pictures(writer.path, moving_square(11))


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_a_first_block_that_does_not_fit_leaves_nothing(suffix, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = torch.randint(0, 256, (4, 32, 48, 3), dtype=torch.uint8)
    with recording(tmp_path / f"clip{suffix}") as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        try:
            with pytest.raises(OSError, match="frames 0 to 3 could not be stored; no other"):
                writer.write(noise)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == [] and writer.frames == 0
        writer.write(moving_square(3))
        assert_same_pictures(writer.path, moving_square(3))


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
@pytest.mark.parametrize("before", [0, 8])
def test_an_interrupt_while_a_block_is_encoded_leaves_the_video_before_it(
    suffix, before, tmp_path, monkeypatch
):
    def interrupted(picture, **how):
        if (picture == 200).all():
            raise KeyboardInterrupt
        return encode(picture, **how)

    encode = av.VideoFrame.from_ndarray
    last = torch.full((1, 32, 48, 3), 200, dtype=torch.uint8)
    with recording(tmp_path / f"clip{suffix}") as writer:
        writer.write(moving_square(before))
        monkeypatch.setattr(av.VideoFrame, "from_ndarray", staticmethod(interrupted))
        with pytest.raises(KeyboardInterrupt):
            writer.write(torch.cat((moving_square(3, first=before), last)))
        monkeypatch.undo()
        assert writer.frames == before
        if before:
            assert_same_pictures(writer.path, moving_square(before))
        else:
            assert list(tmp_path.iterdir()) == []
        writer.write(moving_square(3, first=before))
        assert_same_pictures(writer.path, moving_square(before + 3))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away here")
def test_an_mp4_is_the_same_on_any_number_of_cores(tmp_path):
    cores = os.sched_getaffinity(0)
    found = set()
    for count in {1, len(cores)}:
        path = tmp_path / f"{count}.mp4"
        os.sched_setaffinity(0, set(sorted(cores)[:count]))
        try:
            with recording(path) as writer:
                writer.write(moving_square(17))
        finally:
            os.sched_setaffinity(0, cores)
        found.add(path.read_bytes())
    assert len(found) == 1
    settings = re.search(rb"threads=(\d+) .*sliced_threads=(\d)", found.pop())
    assert settings is not None and settings.groups() == (b"%d" % ENCODER_THREADS, b"0")


def test_an_mp4_has_one_key_frame_a_block(tmp_path):
    with recording(tmp_path / "clip.mp4") as writer:
        for length in (9, 1, 17):
            writer.write(moving_square(length, first=writer.frames))
    with av.open(str(writer.path)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert [place for place, key in enumerate(keys) if key] == [0, 9, 10] and len(keys) == 27


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("a.mp4", (2, 16_386), "width is at most 16384, got 16386: .* a .mp4 has sides of 16,384"),
        ("a.gif", (65_536, 2), "height is at most 65535"),
        ("a.png", (10_000, 10_000), "a frame has 10000x10000 pixels"),
        ("a.png", (0, 5), "height is at least 1, got 0"),
    ],
)
def test_sizes_that_no_file_holds_are_refused(name, size, told):
    with pytest.raises(ValueError, match=told):
        check_size(name, size)
    check_size(name, (64, 64))


@pytest.mark.parametrize(
    ("name", "fps", "told"),
    [
        ("a.gif", 120, "at most 100 frames a second, got 120: .*Write an .mp4"),
        ("a.gif", 0.001, "1 to 65,535 hundredths"),
        ("a.mp4", float("nan"), "fps is a finite number"),
        ("a.mp4", -3, "fps is above 0, got -3"),
        ("a.mp4", 1e-5, "fps is at least 0.001, got 1e-05"),
        ("a.mp4", 1e9, "fps is at most"),
    ],
)
def test_rates_that_no_file_holds_are_refused(name, fps, told):
    with pytest.raises(ValueError, match=told):
        check_rate(name, fps)
    assert check_rate(name, 24000 / 1001) == Fraction(24000, 1001)


def test_a_writer_without_frames_leaves_nothing(tmp_path):
    with recording(tmp_path / "clip.mp4") as writer:
        writer.write(moving_square(0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.png"])
def test_an_existing_output_is_kept_unless_overwritten(name, tmp_path):
    def record(frames: int, overwrite: bool) -> Path:
        with recording(tmp_path / name, overwrite) as writer:
            writer.write(moving_square(frames))
        return writer.path

    record(6, overwrite=False)
    with pytest.raises(FileExistsError):
        record(3, overwrite=False)
    assert len(read(destination(tmp_path / name))) == 6
    assert len(read(record(3, overwrite=True))) == 3


def test_what_cannot_be_written_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"one of \.mp4, \.gif, \.png.*got '\.avi'.*clip\.mp4"):
        destination(Path("clip.avi"))
    with pytest.raises(ValueError, match="even height and width, got 31x48.*or write a .gif"):
        check_size(Path("clip.mp4"), (31, 48))
    check_size(Path("clip.gif"), (31, 47))
    with pytest.raises(ValueError, match="fps is above 0, got 0: .*say, 12"):
        VideoWriter(tmp_path / "clip.mp4", fps=0, size=(32, 48))
    writer = recording(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"shape \[frames, 32, 48, 3\].*got torch.uint8 \[2, 48"):
        writer.write(moving_square(2, height=48, width=32))


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    with pytest.raises(ValueError, match=r"notes\.mp4 cannot be read as a video"):
        read_video(path)


def test_a_contact_sheet_shows_the_frames_in_rows(tmp_path):
    frames = torch.stack([torch.full((4, 6, 3), 10 * i, dtype=torch.uint8) for i in range(5)])
    sheet = contact_sheet(frames, columns=3, gap=2)
    assert tuple(sheet.shape) == (2 * 6 + 2, 3 * 8 + 2, 3)
    assert [int(sheet[3, 3 + 8 * i, 0]) for i in range(3)] == [0, 10, 20]
    assert [int(sheet[9, 3 + 8 * i, 0]) for i in range(3)] == [30, 40, 255]
    write_png(tmp_path / "sheet.png", sheet)
    assert torch.equal(read_video(tmp_path / "sheet.png")[0][0], sheet)
