"""Each layer against the plain formula that it computes in another way."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longlive_models.vae.layers import (
    CausalConv3d,
    ChannelNorm,
    Downsample,
    FrameAttention,
    PointwiseConv3d,
    TemporalConv3d,
    Upsample,
    add_repeated,
    average_down,
    images,
    patchify,
    unpatchify,
)
from longlive_models.vae.streaming import History, features
from tests.models.vae.tiny import difference

EXACT = 1e-12


def random_features(c: int, t: int, h: int = 4, w: int = 6, b: int = 2) -> Tensor:
    return features(torch.randn(b, t, h, w, c, dtype=torch.float64))


def past_of(*frames: int, c: int, h: int = 4, w: int = 6, b: int = 2) -> tuple[Tensor, ...]:
    return tuple(torch.randn(b, t, h, w, c, dtype=torch.float64) for t in frames)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_unpatchify_inverts_patchify(frames, height, size):
    video = torch.randn(2, 3, frames, height * size, 2 * size)
    assert torch.equal(unpatchify(patchify(video, size), size), video)


def test_a_patch_channel_is_4_color_plus_2_column_plus_row():
    video = torch.arange(3 * 2 * 2.0).view(1, 3, 1, 2, 2)
    patch = patchify(video, 2).flatten()
    for color in range(3):
        for row in range(2):
            for column in range(2):
                assert patch[4 * color + 2 * column + row] == video[0, color, 0, row, column]


def test_the_norm_gives_length_sqrt_channels_and_leaves_zero_alone():
    x = random_features(5, 2)
    x[0, :, 0, 0, 0] = 0
    y = ChannelNorm(5).double()(x)
    lengths = y.norm(dim=1)
    assert lengths[0, 0, 0, 0] == 0
    lengths[0, 0, 0, 0] = 5**0.5
    torch.testing.assert_close(lengths, torch.full_like(lengths, 5**0.5))


@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_and_temporal_convolutions_are_convolutions(stride):
    x = random_features(3, 7)
    for layer in (PointwiseConv3d(3, 4), TemporalConv3d(3, 4, stride=stride)):
        layer = layer.double()
        want = F.conv3d(x, layer.weight, layer.bias, stride=layer.stride)
        assert difference(layer(x), want) < EXACT


def test_a_causal_convolution_pads_in_front_and_remembers_two_frames():
    conv, x = CausalConv3d(3, 4).double(), random_features(3, 5)
    whole = F.conv3d(F.pad(x, (0, 0, 0, 0, 2, 0)), conv.weight, conv.bias, padding=(0, 1, 1))
    first = History(None)
    parts = [conv(x[:, :, :1], first)]
    later = History(tuple(first.new))
    parts.append(conv(x[:, :, 1:], later))
    assert difference(torch.cat(parts, 2), whole) < EXACT
    assert difference(features(later.new[0]), x[:, :, -2:]) == 0


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_a_convolution_of_images_is_the_same(frames, height, width):
    conv, x = CausalConv3d(3, 4).double(), random_features(3, frames + 2, height, width, b=1)
    want = F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
    assert difference(conv.forward_as_images(x), want) < EXACT


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_four_phases_are_nearest_upsampling_and_its_convolution(frames, height, width):
    up = Upsample(3, temporal=False).double()
    x = images(random_features(3, frames, height, width)).requires_grad_()
    want = up.resample(x)  # the layers as they are named in a checkpoint
    got = up.double_space(x)
    assert difference(got, want) < EXACT
    weight = torch.randn_like(want)
    inputs = (x, *up.parameters())
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs),
        torch.autograd.grad((want * weight).sum(), inputs),
        strict=True,
    ):
        assert difference(a, b) < 1e-10


def test_temporal_upsampling_makes_even_and_odd_frames_of_the_two_halves():
    up, x = Upsample(3, temporal=True).double(), random_features(3, 2)
    past = past_of(2, c=3)
    halves = up.time_conv(features(torch.cat([past[0], x.permute(0, 2, 3, 4, 1)], 1)))
    even, odd = halves.chunk(2, dim=1)
    frames = torch.stack([even, odd], 3).flatten(2, 3)
    want = torch.stack([up.resample(frame) for frame in frames.unbind(2)], 2)
    assert difference(up(x, History(past)), want) < EXACT


def test_the_first_frame_passes_temporal_layers_and_leaves_no_trace_in_upsampling():
    x, first = random_features(3, 1), History(None)
    up, down = Upsample(3, temporal=True).double(), Downsample(3, temporal=True).double()
    assert up(x, first).shape[2] == down(x, first).shape[2] == 1
    assert first.new[0].shape[1] == 2 and first.new[0].abs().max() == 0
    assert first.new[1].shape[1] == 1 and first.new[1].abs().max() > 0


def test_downsampling_in_space_pads_right_and_below():
    down, x = Downsample(3, temporal=False).double(), random_features(3, 2)
    conv = down.resample[1]
    want = [
        F.conv2d(F.pad(frame, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
        for frame in x.unbind(2)
    ]
    assert difference(down(x, History(())), torch.stack(want, 2)) < EXACT


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize(
    ("channels", "out", "time", "space"),
    [
        (4, 4, 2, 2),
        (4, 8, 2, 2),
        (8, 2, 2, 2),
        (2, 16, 2, 2),
        (4, 8, 1, 2),
        (8, 2, 1, 2),
        (4, 4, 1, 1),
    ],
)
def test_the_down_shortcut_averages_runs_of_folded_channels(channels, out, time, space, frames):
    x = random_features(channels, frames, b=1)
    got = average_down(x, out, time=time, space=space)
    padded = F.pad(x, (0, 0, 0, 0, -frames % time, 0))
    group = channels * time * space**2 // out
    for place in torch.cartesian_prod(*map(torch.arange, got.shape[2:])).tolist():
        t, h, w = place
        folded = [
            padded[0, c, t * time + i, h * space + j, w * space + k]
            for c in range(channels)
            for i in range(time)
            for j in range(space)
            for k in range(space)
        ]
        want = torch.stack(folded).view(out, group).mean(1)
        assert difference(got[0, :, t, h, w], want) < EXACT


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("channels", "out", "time"),
    [
        (4, 4, 2),
        (4, 2, 2),
        (4, 1, 2),
        (2, 4, 2),
        (8, 1, 2),
        (4, 4, 1),
        (4, 2, 1),
        (4, 1, 1),
        (2, 4, 1),
    ],
)
def test_the_up_shortcut_unfolds_repeated_channels(channels, out, time, first):
    start = random_features(channels, 1 if first else 2, 2, 3, b=1)
    repeated = start.repeat_interleave(out * time * 4 // channels, dim=1)
    frames = start.shape[2] * time
    want = torch.empty(1, out, frames, 4, 6, dtype=torch.float64)
    for c, f, h, w in torch.cartesian_prod(*map(torch.arange, want.shape[1:])).tolist():
        folded = ((c * time + f % time) * 2 + h % 2) * 2 + w % 2
        want[0, c, f, h, w] = repeated[0, folded, f // time, h // 2, w // 2]
    want = want[:, :, time - 1 :] if first else want
    x = random_features(out, want.shape[2], 4, 6, b=1)
    assert difference(add_repeated(x, start, time=time, first=first), x + want) < EXACT


def test_attention_stays_within_a_frame_and_is_softmax_of_scaled_products():
    attention, x = FrameAttention(4).double(), random_features(4, 2, b=1)
    torch.nn.init.normal_(attention.proj.weight)
    for t, frame in enumerate(x[0].unbind(1)):
        normed = F.normalize(frame, dim=0) * 2 * attention.norm.gamma
        q, k, v = attention.to_qkv(normed[None])[0].flatten(1).chunk(3)
        attended = (q.T @ k / 2).softmax(-1) @ v.T
        want = frame + attention.proj(attended.T.reshape(1, *frame.shape))[0]
        assert difference(attention(x)[0, :, t], want) < EXACT
