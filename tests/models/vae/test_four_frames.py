"""Four frames at once: the same convolution with half the products."""

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_models.vae import four_frames
from longlive_models.vae.layers import CausalConv3d

few = settings(max_examples=20)


def test_the_products_of_six_frames_and_three_taps_are_four_sums():
    """``A [(G w) * (B x)]`` is the sum over taps, for any frames and taps: as polynomials."""
    a, g, b = four_frames.matrices()
    made = torch.einsum("ij,jt,jf->itf", a, g, b)
    want = torch.zeros(4, 3, 6, dtype=torch.float64)
    for i in range(4):
        for tap in range(3):
            want[i, tap, i + tap] = 1
    torch.testing.assert_close(made, want, rtol=0, atol=1e-14)


@few
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 60),
)
def test_it_is_the_convolution(batch, groups, sizes, at_once):
    channels, height, width = sizes
    x = torch.randn(batch, channels, 2 + 4 * groups, height, width, dtype=torch.float64)
    weight = torch.randn(2, channels, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(four_frames, "AT_ONCE", at_once)
        got = four_frames.convolve(x, weight, bias)
    torch.testing.assert_close(got, F.conv3d(x, weight, bias, padding=(0, 1, 1)))


@pytest.mark.parametrize(("numbers", "calls"), [(1, 3), (2 * 3 * 20, 2), (1 << 19, 1)])
def test_so_many_numbers_go_through_a_convolution_at_once(numbers, calls, monkeypatch):
    """Three groups of four frames, each of 3 channels of 20 positions."""
    conv2d = Mock(wraps=F.conv2d)
    monkeypatch.setattr(four_frames, "AT_ONCE", numbers)
    monkeypatch.setattr(four_frames.F, "conv2d", conv2d)
    with torch.no_grad():
        four_frames.convolve(torch.randn(1, 3, 14, 4, 5), torch.randn(2, 3, 3, 3, 3), torch.ones(2))
    assert conv2d.call_count == calls * four_frames.INPUTS


@pytest.mark.parametrize("frames", range(1, 10))
def test_any_number_of_frames_is_split_into_fours_and_a_rest(frames):
    conv = CausalConv3d(3, 4).double()
    x = torch.randn(2, 3, frames + 2, 5, 4, dtype=torch.float64)
    want = F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
    with torch.no_grad():
        torch.testing.assert_close(conv.forward_on_cpu(x), want)
    torch.testing.assert_close(conv.forward_on_cpu(x), want)  # with gradients: all at once


def test_in_float32_it_is_as_exact_as_the_plain_sum_within_a_factor_of_two():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 48, 10, 12, 12), torch.randn(48, 48, 3, 3, 3) / 36
    bias = torch.zeros(48)
    want = F.conv3d(x.double(), weight.double(), padding=(0, 1, 1))

    def error(y):
        return (y.double() - want).square().mean().sqrt().item()

    with torch.no_grad():
        assert error(four_frames.convolve(x, weight, bias)) < 1.5e-6
