"""Which frames a rank encodes: windows that fall on the video's own groups of frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.sequence_parallel import causal_history, halo_window


def pixels_of(latent: int, stride: int) -> set[int]:
    """The frames that a latent frame of a whole video holds."""
    return {0} if latent == 0 else set(range(stride * (latent - 1) + 1, stride * latent + 1))


@given(st.integers(0, 40), st.integers(1, 20), st.integers(0, 40), st.sampled_from((1, 2, 4)))
def test_a_window_holds_its_frames_and_the_halo_in_whole_groups(start, count, halo, stride):
    keep = range(start, start + count)
    window = halo_window(keep, halo=halo, stride=stride)
    first = max(0, start - halo)
    wanted = set().union(*(pixels_of(latent, stride) for latent in range(first, keep.stop)))
    assert wanted <= set(window.pixels)
    # at most one frame more, which the encoder takes for a video's first, alone in its group
    assert len(window.pixels) - len(wanted) == (1 if first else 0)
    latents = 1 + (len(window.pixels) - 1) // stride
    assert latents - window.drop == count and window.keep == keep


def test_the_windows_of_the_original():
    """96 latent frames over four ranks with the halo of Wan2.2."""
    windows = [halo_window(range(24 * r, 24 * r + 24), halo=28, stride=4) for r in range(4)]
    assert [(w.pixels.start, w.pixels.stop, w.drop) for w in windows] == [
        (0, 93, 0),
        (0, 189, 24),
        (76, 285, 29),
        (172, 381, 29),
    ]


def test_history_adds_up_what_each_layer_looks_back():
    assert causal_history([(2, 1)]) == 2
    assert causal_history([(2, 1), (1, 2), (2, 1)]) == 4  # 2 + 1 + 2 x 2 = 7 frames, two a latent
    assert causal_history([]) == 0


def test_windows_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match=r"got range\(3, 3\), 2 and 4"):
        halo_window(range(3, 3), halo=2, stride=4)
    with pytest.raises(ValueError, match="a halo of 0 or more"):
        halo_window(range(3, 5), halo=-1, stride=4)
