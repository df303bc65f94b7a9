"""The encoder, from patchified video to latents: down stages, a middle with attention, a head."""

import torch.nn.functional as F
from torch import nn

from longlive_models.vae.config import VAEConfig
from longlive_models.vae.layers import (
    CausalConv3d,
    ChannelNorm,
    Downsample,
    FrameAttention,
    ResidualBlock,
    average_down,
)
from longlive_models.vae.streaming import Features, History


class DownStage(nn.Module):
    """Residual blocks and a downsampling, beside a shortcut without parameters."""

    def __init__(self, channels: int, out_channels: int, blocks: int, time: int, space: int):
        super().__init__()
        self.time, self.space, self.out_channels = time, space, out_channels
        widths = [channels] + [out_channels] * blocks
        layers: list[nn.Module] = [ResidualBlock(*widths[i : i + 2]) for i in range(blocks)]
        if space == 2:
            layers.append(Downsample(out_channels, temporal=time == 2))
        self.downsamples = nn.ModuleList(layers)

    def forward(self, x: Features, history: History) -> Features:
        shortcut = average_down(x, self.out_channels, time=self.time, space=self.space)
        for layer in self.downsamples:
            x = layer(x, history)
        return x + shortcut


class Encoder(nn.Module):
    """Patchified frames to twice the latent channels: means, then log-variances."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = config.encoder_dims
        self.conv1 = CausalConv3d(config.patch_channels, dims[0])
        times = [2 if halved else 1 for halved in config.temporal_downsample] + [1]
        spaces = [2] * len(config.temporal_downsample) + [1]
        self.downsamples = nn.ModuleList(
            DownStage(dims[i], dims[i + 1], config.num_res_blocks, times[i], spaces[i])
            for i in range(len(config.dim_mult))
        )
        self.middle = nn.ModuleList(
            [
                ResidualBlock(dims[-1], dims[-1]),
                FrameAttention(dims[-1]),
                ResidualBlock(dims[-1], dims[-1]),
            ]
        )
        self.head = nn.Sequential(
            ChannelNorm(dims[-1]),
            nn.SiLU(),
            CausalConv3d(dims[-1], 2 * config.latent_channels),
        )

    def forward(self, x: Features, history: History) -> Features:
        """Encode the first frame of a video alone, or whole groups of later frames."""
        x = self.conv1(x, history)
        for stage in self.downsamples:
            x = stage(x, history)
        before, attention, after = self.middle
        x = after(attention(before(x, history)), history)
        norm, _, conv = self.head
        return conv(F.silu(norm(x)), history)
