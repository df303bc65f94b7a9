"""Going on with a video file gives the bytes that writing it at once would have given."""

from pathlib import Path

import pytest
import torch

from longlive_models.video.append import VideoStart
from longlive_models.video.files import VideoWriter, destination

SIZE, BLOCKS = (32, 48), (5, 8, 3, 8)


def block(number: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    shape = (frames, *SIZE, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def write(path: Path, blocks: range, start: VideoStart | None = None, **how: bool) -> Path:
    with VideoWriter(path, fps=8, size=SIZE, start=start, **how) as writer:
        for number in blocks:
            writer.write(block(number, BLOCKS[number]))
        assert writer.frames == sum(BLOCKS[: blocks.stop])
    return destination(path)


def content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_going_on_in_place_and_on_a_copy_give_the_same_file(suffix, kept, tmp_path):
    whole = write(tmp_path / f"whole{suffix}", range(4))
    longer = write(tmp_path / f"longer{suffix}", range(4))  # ran further than what is kept of it
    start = VideoStart(path=longer, frames=sum(BLOCKS[:kept]))
    start.require()
    before = content(longer)
    copy = write(tmp_path / f"copy{suffix}", range(kept, 4), start)
    assert content(longer) == before
    assert content(copy) == content(whole)
    write(tmp_path / f"longer{suffix}", range(kept, 4), start)
    assert content(longer) == content(whole)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_write_that_was_killed_does_not_count(suffix, tmp_path):
    whole = write(tmp_path / f"whole{suffix}", range(3))
    part = write(tmp_path / f"part{suffix}", range(3))
    data = part.read_bytes()
    two = len(write(tmp_path / f"two{suffix}", range(2)).read_bytes())
    part.write_bytes(data[: two + 40])
    with pytest.raises(ValueError, match=r"has 13 frames, and none of its blocks ends after .* 16"):
        VideoStart(path=part, frames=16).require()
    write(tmp_path / f"part{suffix}", range(2, 3), VideoStart(path=part, frames=13))
    assert part.read_bytes() == whole.read_bytes()


def test_nothing_is_touched_before_there_are_frames(tmp_path):
    whole = write(tmp_path / "whole.mp4", range(4))
    before = content(whole)
    write(tmp_path / "copy.mp4", range(0), VideoStart(path=whole, frames=0))
    with VideoWriter(whole, fps=8, size=SIZE, start=VideoStart(path=whole, frames=5)) as writer:
        assert writer.frames == 5
    assert content(whole) == before
    assert not (tmp_path / "copy.mp4").exists()


def test_another_video_is_not_replaced_unasked(tmp_path):
    whole, other = (write(tmp_path / f"{name}.mp4", range(2)) for name in ("whole", "other"))
    start = VideoStart(path=whole, frames=5)
    before = content(other)
    with pytest.raises(FileExistsError):
        write(other, range(1, 2), start)
    assert content(other) == before
    write(other, range(1, 2), start, overwrite=True)
    assert content(other) == content(whole)


def test_a_start_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no video '.*none.mp4': .* first 5 frames"):
        VideoStart(path=tmp_path / "none.mp4", frames=5).require()
    whole = write(tmp_path / "whole.mp4", range(2))
    with pytest.raises(ValueError, match=r"whole.mp4 has 13 frames, and none .* after frame 6"):
        VideoStart(path=whole, frames=6).require()
    frames = write(tmp_path / "frames.png", range(1))
    with pytest.raises(ValueError, match="has 5 frames"):
        VideoStart(path=frames, frames=6).require()
