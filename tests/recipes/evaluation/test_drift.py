"""Drift: numbers of videos whose drift is known, whatever their length; seams where blocks join."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_models import Video
from longlive_recipes.evaluation.drift import DriftOptions, measure, measure_file, worst


def flat(*levels: float, size: int = 8) -> list[np.ndarray]:
    """Gray frames of these levels, from 0 to 255."""
    return [np.full((size, size, 3), round(level), np.uint8) for level in levels]


@given(count=st.integers(8, 120), level=st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_a_still_video_drifts_nowhere(count, level):
    found = measure(iter(flat(*[level] * count)), 24.0)
    assert (found.frames, found.fps) == (count, 24.0)
    assert found.color_change == 0 and found.contrast_change == 0
    assert found.first.flicker == found.first.motion == 0
    assert found.motion_ratio is None and found.edge_jump is None


def test_a_change_behind_the_first_part_is_not_in_it():
    found = measure(iter(flat(*[10] * 3, *[200] * 17)), 24.0)  # parts of three frames
    assert found.first.motion == found.last.motion == 0
    within = measure(iter(flat(*[10] * 2, *[200] * 18)), 24.0)
    assert within.first.motion == pytest.approx(190 / 255 / 2, rel=1e-5)


def test_the_change_of_color_is_the_distance_of_the_means():
    red, blue = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    found = measure(iter([red] * 20 + [blue] * 20), 8.0)
    assert found.first.color == (1.0, 0.0, 0.0) and found.last.color == (0.0, 0.0, 1.0)
    assert found.color_change == pytest.approx(math.sqrt(2))


def test_contrast_is_the_deviation_within_a_frame():
    checked = np.zeros((4, 4, 3), np.uint8)
    checked[::2] = 255
    found = measure(iter(flat(*[128] * 20, size=4) + [checked] * 20), 8.0)
    assert (found.first.contrast, found.last.contrast) == (0.0, pytest.approx(0.5))
    assert found.contrast_change == pytest.approx(0.5)


def test_a_slow_fade_is_motion_and_no_flicker():
    fade = measure(iter(flat(*range(40, 140))), 8.0)
    assert fade.first.flicker == pytest.approx(0, abs=1e-6)
    assert fade.first.motion == pytest.approx(1 / 255, rel=1e-3)
    assert fade.motion_ratio == pytest.approx(1.0, rel=1e-3)
    turns = measure(iter(flat(*[100, 110] * 40)), 8.0)
    assert turns.first.flicker == pytest.approx(20 / 255, rel=1e-3)


def test_motion_that_dies_out_is_told():
    moving = [100 + 20 * (place % 2) for place in range(50)]
    found = measure(iter(flat(*moving, *[100] * 50)), 8.0)
    assert found.last.motion == 0 and found.motion_ratio == 0
    assert found.motion_change == pytest.approx(-20 / 255, rel=1e-3)


@pytest.mark.parametrize(("first", "block"), [(29, 32), (5, 8)])
def test_a_jump_at_the_edges_of_blocks_is_a_seam(first, block):
    """A change of 10 where a block begins, and of 1 within: ten times the rest."""
    options = DriftOptions(first_block=first, block=block)
    level, levels = 0, []
    for frame in range(first + 3 * block):
        starts = frame >= first and (frame - first) % block == 0
        level += (10 if starts else 1) * (1 if frame % 2 else -1)
        levels.append(128 + level)
    found = measure(iter(flat(*levels)), 8.0, options)
    assert found.edge_jump == pytest.approx(10, rel=1e-3)
    shifted = DriftOptions(first_block=first + 2, block=block)
    assert measure(iter(flat(*levels)), 8.0, shifted).edge_jump < 2


def test_a_share_is_of_the_frames():
    levels = [0] * 10 + [128] * 80 + [255] * 10
    tenth = measure(iter(flat(*levels)), 8.0, DriftOptions(share=0.1))
    assert tenth.color_change == pytest.approx(math.sqrt(3))
    half = measure(iter(flat(*levels)), 8.0, DriftOptions(share=0.5))
    assert half.color_change == pytest.approx(math.sqrt(3) * 0.2, rel=0.01)


@pytest.mark.parametrize("suffix", ["mp4", "gif", "png"])
def test_files_and_folders_are_read_frame_by_frame(suffix, tmp_path):
    frames = torch.from_numpy(np.stack(flat(*range(60, 120, 3), size=32)))
    path = Video(frames, 8.0).save(tmp_path / f"v.{suffix}")
    found = measure_file(path, 8.0 if suffix == "png" else None)
    assert found.frames == 20 and found.fps == pytest.approx(8.0, rel=0.02)
    own = measure(iter(frames.numpy()), found.fps)
    assert found.color_change == pytest.approx(own.color_change, abs=0.02)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"block": 0}, "block is at least 1"),
        ({"first_block": 0}, "first_block is at least 1"),
        ({"share": 0.6}, "share"),
        ({"share": 0}, "share"),
    ],
)
def test_options_that_cannot_be_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        DriftOptions(**how)


def test_what_is_too_short_or_no_video_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="a video of 7 frames has no first and last part"):
        measure(iter(flat(*range(7))), 8.0)
    path = Video(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 8.0).save(tmp_path / "short.mp4")
    with pytest.raises(ValueError, match=r"short\.mp4: a video of 4 frames"):
        measure_file(path)
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"no\.mp4 cannot be read as a video"):
        measure_file(tmp_path / "no.mp4")


def test_the_worst_of_several_is_the_largest_of_each():
    still, fade = measure(iter(flat(*[9] * 60)), 8.0), measure(iter(flat(*range(60, 120))), 8.0)
    found = worst([still, fade])
    assert found["color"] == fade.color_change and found["edge jump"] == fade.edge_jump
