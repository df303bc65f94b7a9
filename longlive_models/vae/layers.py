"""The layers of the Wan2.2 VAE.

Features are [batch, channels, frames, height, width], channels-last in memory. Every layer takes
and returns that layout, so that no copy is needed to change it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from longlive_models.vae import four_frames
from longlive_models.vae.streaming import Features, History, features, rows

Images = Float[Tensor, "images _ _ _"]
ONEDNN_ELEMENTS = 20_480  # see CausalConv3d.forward


def images(x: Features) -> Images:
    """The frames of all samples as one batch of images: a view."""
    return rows(x).flatten(0, 1).permute(0, 3, 1, 2)


def from_images(x: Images, batch: int) -> Features:
    """The inverse of ``images``."""
    return features(x.permute(0, 2, 3, 1).unflatten(0, (batch, -1)))


def patchify(video: Features, size: int) -> Features:
    """Fold ``size`` x ``size`` pixels into channels: 4 color + 2 column + row, for size 2."""
    b, c, t, h, w = video.shape
    x = video.reshape(b, c, t, h // size, size, w // size, size)
    x = x.permute(0, 2, 3, 5, 1, 6, 4)
    return features(x.reshape(b, t, h // size, w // size, c * size * size))


def unpatchify(x: Features, size: int) -> Features:
    """The inverse of ``patchify``; the result is a plain contiguous video."""
    b, c, t, h, w = x.shape
    x = rows(x).reshape(b, t, h, w, c // size**2, size, size)
    return x.permute(0, 4, 1, 2, 6, 3, 5).reshape(b, c // size**2, t, h * size, w * size)


class PointwiseConv3d(nn.Conv3d):
    """A 1 x 1 x 1 convolution: a linear layer on the channels of every position."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1, dtype=torch.float32)

    def forward(self, x: Features) -> Features:
        return features(F.linear(rows(x), self.weight.flatten(1), self.bias))


class TemporalConv3d(nn.Conv3d):
    """A 3 x 1 x 1 convolution without padding: a linear layer on three frames' channels."""

    def __init__(self, channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(
            channels, out_channels, (3, 1, 1), stride=(stride, 1, 1), dtype=torch.float32
        )

    def forward(self, x: Features) -> Features:
        x, stride = rows(x), self.stride[0]
        triples = torch.cat([x[:, :-2:stride], x[:, 1:-1:stride], x[:, 2::stride]], -1)
        weight = self.weight.flatten(2).transpose(1, 2).flatten(1)
        return features(F.linear(triples, weight, self.bias))


class ChannelNorm(nn.Module):
    """Scales each position's channel vector to length sqrt(channels), then by ``gamma``."""

    def __init__(self, channels: int, *, dims: int = 3) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims, dtype=torch.float32))

    def forward(self, x: Features) -> Features:
        dtype = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
        inverse = self.scale / length.clamp_min(1e-12)
        return x * inverse.to(x.dtype) * self.gamma.view(-1, 1, 1, 1).to(x.dtype)


class CausalConv3d(nn.Conv3d):
    """A 3 x 3 x 3 convolution that sees two earlier frames and no later one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=(0, 1, 1), dtype=torch.float32)

    def forward(self, x: Features, history: History) -> Features:
        if history.first:
            history.start(torch.cat([torch.zeros_like(x), x], 2))
            # Before a video's first frame lies only zero padding: one tap in time is left.
            y = F.conv2d(images(x), self.weight[:, :, 2], self.bias, padding=1)
            return from_images(y, x.shape[0])
        x = history.extend(x)
        if x.device.type == "cpu":
            return self.forward_on_cpu(x)
        return super().forward(x)

    def forward_on_cpu(self, x: Features) -> Features:
        """Compute the convolution in the way that is fastest on a CPU: the same sums."""
        assert self.bias is not None
        frames = x.shape[2] - 2
        if frames >= four_frames.FRAMES and not torch.is_grad_enabled():
            some = frames - frames % four_frames.FRAMES
            y = four_frames.convolve(x[:, :, : some + 2], self.weight, self.bias)
            return y if some == frames else torch.cat([y, self.forward_on_cpu(x[:, :, some:])], 2)
        if x.shape[0] == 1 and x[0, ..., 0].numel() <= ONEDNN_ELEMENTS:
            return self.forward_as_images(x)
        return super().forward(x)

    def forward_as_images(self, x: Features) -> Features:
        """Compute the convolution as a batch of 2-D convolutions for each tap in time.

        The sum is the same. It is for sizes at which PyTorch on a CPU does not use oneDNN for the
        3-D convolution of a single sample, which takes two to three times as long.
        """
        frames = images(x)
        first, second, third = self.weight.unbind(2)
        y = F.conv2d(frames[:-2], first, self.bias, padding=1)
        y = y + F.conv2d(frames[1:-1], second, padding=1)
        return from_images(y + F.conv2d(frames[2:], third, padding=1), 1)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and causal convolution, beside an identity or a 1x1x1 shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(  # positions 1, 4 and 5 hold no weights
            ChannelNorm(channels),
            nn.SiLU(),
            CausalConv3d(channels, out_channels),
            ChannelNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(out_channels, out_channels),
        )
        self.shortcut = (
            PointwiseConv3d(channels, out_channels) if channels != out_channels else nn.Identity()
        )

    def forward(self, x: Features, history: History) -> Features:
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        h = conv1(F.silu(norm1(x)), history)
        h = conv2(F.silu(norm2(h)), history)
        return h + self.shortcut(x)


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of one frame, with its residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, dtype=torch.float32)
        self.proj = nn.Conv2d(channels, channels, 1, dtype=torch.float32)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Features) -> Features:
        b, c, t, h, w = x.shape
        tokens = rows(self.norm(x)).reshape(b * t, 1, h * w, c)
        qkv = F.linear(tokens, self.to_qkv.weight.flatten(1), self.to_qkv.bias)
        attended = F.scaled_dot_product_attention(*qkv.split(c, dim=-1))
        out = F.linear(attended, self.proj.weight.flatten(1), self.proj.bias)
        return x + features(out.view(b, t, h, w, c))


class Downsample(nn.Module):
    """Halves space, and time too if asked: a strided spatial, then a strided causal convolution.

    The first frame of a video is not halved in time.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(channels, channels, 3, stride=2, dtype=torch.float32),
        )
        if temporal:
            self.time_conv = TemporalConv3d(channels, channels, stride=2)
        self.temporal = temporal

    def forward(self, x: Features, history: History) -> Features:
        x = from_images(self.resample(images(x)), x.shape[0])
        if not self.temporal:
            return x
        if history.first:
            history.start(x)
            return x
        return self.time_conv(history.extend(x))


class Upsample(nn.Module):
    """Doubles time if asked (a causal convolution makes both frames), then space (nearest, 3x3).

    The first frame of a video is not doubled in time, and no later frame sees it there.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(channels, channels, 3, padding=1, dtype=torch.float32),
        )
        if temporal:
            self.time_conv = TemporalConv3d(channels, 2 * channels)
        self.temporal = temporal

    def forward(self, x: Features, history: History) -> Features:
        b, c, t, h, w = x.shape
        if self.temporal and history.first:
            history.start(features(rows(x).new_zeros(b, 2, h, w, c)))
        elif self.temporal:
            halves = rows(self.time_conv(history.extend(x))).view(b, t, h, w, 2, c)
            x = features(halves.permute(0, 1, 4, 2, 3, 5).reshape(b, 2 * t, h, w, c))
        return from_images(self.double_space(images(x)), b)

    def double_space(self, x: Images) -> Images:
        """Nearest x2 and the 3 x 3 convolution after it, as four 2 x 2 convolutions.

        Each output pixel sees at most 2 x 2 different input pixels, so the taps that meet the
        same one are added beforehand: 4/9 of the work, and no enlarged copy of the input.
        """
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        phases = []
        for row in (0, 1):
            for column in (0, 1):
                weight = _merge_taps(_merge_taps(conv.weight, 2, row), 3, column)
                padded = F.pad(x, (1 - column, column, 1 - row, row))
                phases.append(F.conv2d(padded, weight, conv.bias).permute(0, 2, 3, 1))
        pairs = [torch.cat(phases[:2], -1), torch.cat(phases[2:], -1)]  # columns, then rows
        n, c, h, w = x.shape
        return torch.stack(pairs, 2).reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)

    def phases(self) -> Tensor:
        """The four convolutions of ``double_space`` as one of 2 x 2 taps, to be padded by 1.

        [4 channels, channels, 2, 2]: of even rows the even columns, the odd ones, then of odd rows.
        Its output has a row and a column more than its input; each phase takes another part.
        """
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        merged = [
            _merge_taps(_merge_taps(conv.weight, 2, row), 3, column)
            for row in (0, 1)
            for column in (0, 1)
        ]
        return torch.cat(merged).contiguous(memory_format=torch.channels_last)


def _merge_taps(weight: Tensor, dim: int, phase: int) -> Tensor:
    """Merge three taps into two: those that meet the same pixel of the image of half the size."""
    first, second, third = weight.unbind(dim)
    pair = (first, second + third) if phase == 0 else (first + second, third)
    return torch.stack(pair, dim)


def average_down(x: Features, out_channels: int, *, time: int, space: int) -> Features:
    """The shortcut of a down stage: folds time and space into channels, averages equal groups.

    A folded channel has its position in (frame, row, column) as its last digits, so a group is
    a run of channels, or the last few digits of one. A single first frame counts as the last of
    its frames, the others being zero.
    """
    b, c, t, h, w = x.shape
    if t % time:
        x = F.pad(x, (0, 0, 0, 0, time - t % time, 0))
        t = x.shape[2]
    t, h, w = t // time, h // space, w // space
    y = rows(x).reshape(b, t, time, h, space, w, space, c)
    y = y.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return features(y.reshape(b, t, h, w, out_channels, -1).mean(-1))


def add_repeated(x: Features, start: Features, *, time: int, first: bool) -> Features:
    """``x`` plus the shortcut of an up stage: ``start`` unfolded into time and 2 x 2 space.

    Its channels are repeated until there are enough to unfold, neighbors alike: the ones that
    differ unfold first into time, then into rows, then into columns. The first frame of a
    video is not unfolded in time: it is the last of its frames.
    """
    b, out_channels, frames, _, _ = x.shape
    _, c, t, h, w = start.shape
    y = rows(start)
    if c < out_channels:
        y = y.repeat_interleave(out_channels // c, dim=-1)
    unfold = unfolding(c, out_channels, time)
    y = y.view(b, t, h, w, out_channels, *unfold).permute(0, 1, 5, 2, 6, 3, 7, 4)
    y = y[:, :, -1:] if first else y
    time = frames // t
    total = rows(x).reshape(b, t, time, h, 2, w, 2, out_channels) + y
    return features(total.reshape(b, frames, 2 * h, 2 * w, out_channels))


def unfolding(channels: int, out_channels: int, time: int) -> tuple[int, int, int]:
    """Over how many frames, rows and columns the channels of an up stage's shortcut are unfolded.

    Axes are taken in this order until ``out_channels`` are left; the others have 1.
    """
    unfold = [1, 1, 1]
    for axis, factor in enumerate((time, 2, 2)):
        if channels > out_channels:
            unfold[axis], channels = factor, channels // factor
    assert channels <= out_channels
    return unfold[0], unfold[1], unfold[2]
