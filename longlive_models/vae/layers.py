"""The layers of the Wan2.2 VAE. Features are [batch, channels, frames, height, width]."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from longlive_models.vae.streaming import Features, History


def patchify(video: Features, size: int) -> Features:
    """Fold ``size`` x ``size`` pixels into channels: 4 colour + 2 column + row, for size 2."""
    b, c, t, h, w = video.shape
    x = video.view(b, c, t, h // size, size, w // size, size)
    return x.permute(0, 1, 6, 4, 2, 3, 5).reshape(b, c * size * size, t, h // size, w // size)


def unpatchify(x: Features, size: int) -> Features:
    """The inverse of ``patchify``."""
    b, c, t, h, w = x.shape
    x = x.view(b, c // size**2, size, size, t, h, w)
    return x.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, c // size**2, t, h * size, w * size)


class ChannelNorm(nn.Module):
    """Scales each position's channel vector to length sqrt(channels), then by ``gamma``."""

    def __init__(self, channels: int, *, spatial_dims: int = 3) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial_dims))

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
        inverse = self.scale / length.clamp_min(1e-12)
        return x * inverse.to(x.dtype) * self.gamma.to(x.dtype)


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution that sees ``kernel_size[0] - 1`` earlier frames and no later ones."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(channels, out_channels, kernel, padding=padding)
        self.earlier = kernel[0] - 1

    def forward(self, x: Features, history: History) -> Features:
        if self.earlier == 0:
            return super().forward(x)
        if history.first:
            history.start(F.pad(x, (0, 0, 0, 0, self.earlier - 1, 0)))
            # Before a video's first frame lies only zero padding: one tap in time is left.
            return F.conv3d(x, self.weight[:, :, -1:], self.bias, padding=self.padding)
        return super().forward(history.extend(x))


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice, beside an identity or a 1x1x1 shortcut."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(  # positions 1, 4 and 5 hold no weights
            ChannelNorm(channels),
            nn.SiLU(),
            CausalConv3d(channels, out_channels, (3, 3, 3)),
            ChannelNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(out_channels, out_channels, (3, 3, 3)),
        )
        self.shortcut = (
            nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
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
        self.norm = ChannelNorm(channels, spatial_dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: Features) -> Features:
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(frames)).view(b * t, 3, c, h * w).transpose(2, 3)
        q, k, v = (part.contiguous() for part in qkv.split(1, dim=1))
        attended = F.scaled_dot_product_attention(q, k, v)
        out = self.proj(attended.reshape(b * t, h * w, c).transpose(1, 2).reshape(b * t, c, h, w))
        return x + out.view(b, t, c, h, w).transpose(1, 2)


class Downsample(nn.Module):
    """Halves space, and time too if asked: a strided spatial, then a strided causal convolution.

    The first frame of a video is not halved in time.
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2)
        )
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))
        if not temporal:
            del self.time_conv
        self.temporal = temporal

    def forward(self, x: Features, history: History) -> Features:
        conv = self.resample[1]
        x = F.conv3d(F.pad(x, (0, 1, 0, 1)), conv.weight.unsqueeze(2), conv.bias, stride=(1, 2, 2))
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
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        if temporal:
            self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1))
        self.temporal = temporal

    def forward(self, x: Features, history: History) -> Features:
        if self.temporal:
            if history.first:
                history.start(torch.zeros_like(x).repeat(1, 1, 2, 1, 1))
            else:
                x = self.double_time(x, history)
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
        conv = self.resample[1]
        return F.conv3d(x, conv.weight.unsqueeze(2), conv.bias, padding=(0, 1, 1))

    def double_time(self, x: Features, history: History) -> Features:
        b, c, t, h, w = x.shape
        pairs = self.time_conv(history.extend(x)).view(b, 2, c, t, h, w)
        return pairs.permute(0, 2, 3, 1, 4, 5).reshape(b, c, 2 * t, h, w)


def average_down(x: Features, out_channels: int, *, time: int, space: int) -> Features:
    """The shortcut of a down stage: folds time and space into channels, averages equal groups.

    A single first frame counts as the last of its group, the others being zero.
    """
    b, c, t, h, w = x.shape
    if t % time:
        x = F.pad(x, (0, 0, 0, 0, time - t % time, 0))
        t = x.shape[2]
    x = x.reshape(b, c, t // time, time, h // space, space, w // space, space)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, out_channels, -1, t // time, h // space, w // space).mean(2)


def repeat_up(x: Features, out_channels: int, *, time: int, first: bool) -> Features:
    """The shortcut of an up stage: channels repeated, then unfolded into time and 2 x 2 space.

    The first frame of a video stays one frame.
    """
    b, c, t, h, w = x.shape
    x = x.repeat_interleave(out_channels * time * 4 // c, dim=1)
    x = x.view(b, out_channels, time, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    x = x.reshape(b, out_channels, t * time, h * 2, w * 2)
    return x[:, :, time - 1 :] if first else x
