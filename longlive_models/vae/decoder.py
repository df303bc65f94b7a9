"""The decoder, from latents to patchified video: a middle with attention, up stages, a head."""

import torch.nn.functional as F
from torch import nn

from longlive_models.vae.config import VAEConfig
from longlive_models.vae.layers import (
    CausalConv3d,
    ChannelNorm,
    FrameAttention,
    ResidualBlock,
    Upsample,
    add_repeated,
)
from longlive_models.vae.streaming import Features, History
from longlive_models.vae.tiles import first_tiled_stage


class UpStage(nn.Module):
    """Residual blocks and an upsampling, beside a shortcut without parameters.

    ``time`` is 2 or 1; the last stage (``space`` 1) has neither upsampling nor shortcut.
    """

    def __init__(self, channels: int, out_channels: int, blocks: int, time: int, space: int):
        super().__init__()
        self.time, self.space, self.out_channels = time, space, out_channels
        widths = [channels] + [out_channels] * blocks
        layers: list[nn.Module] = [ResidualBlock(*widths[i : i + 2]) for i in range(blocks)]
        if space == 2:
            layers.append(Upsample(out_channels, temporal=time == 2))
        self.upsamples = nn.ModuleList(layers)

    def forward(self, x: Features, history: History) -> Features:
        start = x
        for layer in self.upsamples:
            x = layer(x, history)
        if self.space == 1:
            return x
        return add_repeated(x, start, time=self.time, first=history.first)


class Decoder(nn.Module):
    """Latent frames to patchified video frames."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = config.decoder_dims
        self.conv1 = CausalConv3d(config.latent_channels, dims[0])
        self.middle = nn.ModuleList(
            [
                ResidualBlock(dims[0], dims[0]),
                FrameAttention(dims[0]),
                ResidualBlock(dims[0], dims[0]),
            ]
        )
        times = [2 if doubled else 1 for doubled in reversed(config.temporal_downsample)] + [1]
        spaces = [2] * len(config.temporal_downsample) + [1]
        self.tiled = first_tiled_stage(config)
        self.upsamples = nn.ModuleList(
            UpStage(dims[i], dims[i + 1], config.num_res_blocks + 1, times[i], spaces[i])
            for i in range(len(config.dim_mult))
        )
        self.head = nn.Sequential(
            ChannelNorm(dims[-1]),
            nn.SiLU(),
            CausalConv3d(dims[-1], config.patch_channels),
        )

    def forward(self, x: Features, history: History) -> Features:
        """Decode the first latent frame of a video alone, or any number of later ones."""
        return self.top(self.base(x, history), history)

    def base(self, x: Features, history: History) -> Features:
        """The layers before stage ``tiled``, of which attention sees the whole frame."""
        x = self.conv1(x, history)
        before, attention, after = self.middle
        x = after(attention(before(x, history)), history)
        for stage in self.upsamples[: self.tiled]:
            x = stage(x, history)
        return x

    def top(self, x: Features, history: History) -> Features:
        """The stages from ``tiled`` on and the head, which see a few positions around each."""
        for stage in self.upsamples[self.tiled :]:
            x = stage(x, history)
        norm, _, conv = self.head
        return conv(F.silu(norm(x)), history)
