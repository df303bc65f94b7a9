"""Frames with their times: resampled as a viewer sees them, whatever the file's own rate is."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.video.timed import TimedFrame, resample, sampled, timed_frames, video_facts
from tests.recipes.data.made_clips import write_clip, write_with_av


def at(*times, end):
    """Frames that begin at these times; each shows its number."""
    ends = [*times[1:], end]
    return [
        TimedFrame(a, b, lambda n=n: torch.full((1, 1, 3), n, dtype=torch.uint8))
        for n, (a, b) in enumerate(zip(times, ends, strict=True))
    ]


def seen(frames, spans, fps):
    return [(shot, int(pixels[0, 0, 0])) for shot, pixels in resample(frames, spans, fps)]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.sampled_from([5, 12, 24, 30]))
def test_what_is_on_the_screen_is_what_is_taken(lengths, fps):
    """Frames of any lengths, in thousandths of a second; off by a tick at the edges at most."""
    starts = [sum(lengths[:n]) / 1000 for n in range(len(lengths))]
    end = sum(lengths) / 1000
    taken = [n for _, n in seen(at(*starts, end=end), [(0.0, None)], fps)]
    assert abs(len(taken) - end * fps) <= 1
    for k, n in enumerate(taken):
        after = starts[n + 1] if n + 1 < len(starts) else end
        assert starts[n] - 0.0011 <= k / fps <= after + 0.0011


def test_spans_are_cut_out_and_what_lies_between_is_passed_over():
    frames = at(*(n / 10 for n in range(10)), end=1.0)
    assert seen(frames, [(0.2, 0.4), (0.4, 0.5), (0.8, None)], 10) == [
        (0, 2),
        (0, 3),
        (1, 4),
        (2, 8),
        (2, 9),
    ]
    assert seen(at(0.0, end=1.0), [(2.0, 3.0)], 10) == []


@pytest.mark.parametrize(
    "spans", [[(1.0, 0.5)], [(0.5, 1.0), (0.9, 2.0)], [(0.0, None), (1.0, 2.0)]]
)
def test_spans_out_of_order_are_refused(spans):
    with pytest.raises(ValueError, match="spans are in order"):
        seen(at(0.0, end=1.0), spans, 10)


@pytest.mark.parametrize(("fps", "count"), [(24, 24), (30, 20), (12, 48)])
def test_a_constant_rate_becomes_another(tmp_path, fps, count):
    path = write_clip(tmp_path / "a.mp4", 48, fps=fps)
    times = [(one.start, one.end) for one in timed_frames(path)]
    assert times[0][0] == 0
    assert times[-1][1] == pytest.approx(48 / fps)
    assert sampled(48 / fps, 12) == count
    assert len(list(resample(timed_frames(path), [(0.0, None)], 12))) == count


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_variable_rate_keeps_its_pace(tmp_path, suffix):
    """Half a second at 24 frames a second, then at 6, then a second and a half of one frame."""
    times = [Fraction(n, 24) for n in range(12)] + [
        Fraction(1, 2) + Fraction(n, 6) for n in range(4)
    ]
    path = write_with_av(tmp_path / f"a.{suffix}", times, audio_first=True)
    shades = [
        round(p.float().mean().item() / 8) for _, p in resample(timed_frames(path), [(0, None)], 12)
    ]
    assert shades[:12] == [0, 2, 4, 6, 8, 10, 12, 12, 13, 13, 14, 14]


def test_ten_bits_and_odd_sizes_are_read(tmp_path):
    path = write_with_av(
        tmp_path / "a.mkv", [Fraction(n, 12) for n in range(5)], pixels="yuv444p10le", size=(33, 47)
    )
    facts = video_facts(path)
    assert (facts.frames, facts.height, facts.width, facts.missing) == (5, 33, 47, None)
    shades = [one.show().float().mean().item() for one in timed_frames(path)]
    assert shades == pytest.approx([0, 8, 16, 24, 32], abs=2)


def test_facts_tell_a_file_that_is_cut(tmp_path):
    whole = write_clip(tmp_path / "a.mp4", 24)
    assert video_facts(whole).missing is None
    assert video_facts(whole).seconds == pytest.approx(2)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match="it ends inside its first block"):
        video_facts(cut)
    mkv = write_with_av(tmp_path / "b.mkv", [Fraction(n, 24) for n in range(96)])
    assert video_facts(mkv).missing is None
    data, cut = mkv.read_bytes(), tmp_path / "c.mkv"
    cut.write_bytes(data[: len(data) // 2])
    assert video_facts(cut).missing == "the next one is not"  # an mkv counts no frames
    assert 0 < video_facts(cut).frames < 96
