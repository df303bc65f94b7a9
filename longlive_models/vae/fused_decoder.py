"""The decoder without gradients on a GPU: its convolutions, and one pass between any two of them.

It computes what ``decoder.Decoder`` does, with its weights, in the same order. Biases of
convolutions and residual sums are left to the pass that reads the result next.
"""

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from longlive_models.vae.decoder import Decoder, UpStage
from longlive_models.vae.few_channels import FAST, Convolve
from longlive_models.vae.fused_passes import JoinPhases, NormSiluPad
from longlive_models.vae.layers import (
    CausalConv3d,
    ChannelNorm,
    FrameAttention,
    ResidualBlock,
    Upsample,
    from_images,
    images,
)
from longlive_models.vae.streaming import Features, History, Rows, features, rows


@dataclass(frozen=True, slots=True)
class _Sum:
    """Features as what they are the sum of; the pass that reads them adds it up."""

    x: Rows
    bias: Tensor | None = None
    shortcut: Rows | None = None

    def value(self) -> Rows:
        """The sum, written over ``x`` if there is something to add: it is of no use afterwards."""
        total = self.x if self.bias is None else self.x.add_(self.bias)
        return total if self.shortcut is None else total.add_(self.shortcut)


class FusedDecoder:
    """Decodes any latent frames but a video's first, with the weights of a ``Decoder``.

    Args:
        decoder: whose weights; those of upsamplings are merged once, when they are needed first.
        norm_silu_pad, join_phases: backends of the tables in ``fused_passes``.
        last: how the last convolution is computed (``few_channels``).
    """

    def __init__(
        self,
        decoder: Decoder,
        norm_silu_pad: NormSiluPad,
        join_phases: JoinPhases,
        *,
        last: Convolve = FAST,
    ) -> None:
        self._decoder = decoder
        self._last = last
        self._norm_silu_pad = norm_silu_pad
        self._join_phases = join_phases
        self._phases: dict[Upsample, Tensor] = {}

    def __call__(self, x: Features, history: History) -> Features:
        """Patchified frames of latent frames that have a past."""
        return self.top(self.base(x, history), history)

    def base(self, x: Features, history: History) -> Features:
        """``Decoder.base``."""
        before, attention, after = self._decoder.middle
        s = _Sum(rows(self._decoder.conv1(x, history)))
        s = self._block(cast(ResidualBlock, before), s, history)
        attended = cast(FrameAttention, attention)(features(s.value()))
        s = self._block(cast(ResidualBlock, after), _Sum(rows(attended)), history)
        for stage in self._decoder.upsamples[: self._decoder.tiled]:
            s = self._stage(cast(UpStage, stage), s, history)
        return features(s.value())

    def top(self, x: Features, history: History) -> Features:
        """``Decoder.top``."""
        s = _Sum(rows(x))
        for stage in self._decoder.upsamples[self._decoder.tiled :]:
            s = self._stage(cast(UpStage, stage), s, history)
        norm, _, conv = self._decoder.head
        _, padded = self._normed(cast(ChannelNorm, norm), s, history)
        assert isinstance(conv, CausalConv3d) and conv.bias is not None
        return features(self._last(padded, conv.weight, conv.bias))

    def _stage(self, stage: UpStage, s: _Sum, history: History) -> _Sum:
        start = s.value() if stage.space == 2 else None
        s = s if start is None else _Sum(start)
        for layer in stage.upsamples:
            if isinstance(layer, Upsample):
                assert start is not None
                s = self._upsample(layer, s.value(), start, history)
            else:
                s = self._block(cast(ResidualBlock, layer), s, history)
        return s

    def _block(self, block: ResidualBlock, s: _Sum, history: History) -> _Sum:
        norm1, _, conv1, norm2, _, _, conv2 = block.residual
        assert isinstance(conv1, CausalConv3d) and isinstance(conv2, CausalConv3d)
        x, padded = self._normed(cast(ChannelNorm, norm1), s, history)
        h = _convolve(conv1, padded)
        del padded  # large: no two of these at a time
        padded = self._normed(cast(ChannelNorm, norm2), _Sum(h, conv1.bias), history)[1]
        del h
        h = _convolve(conv2, padded)
        return _Sum(h, conv2.bias, rows(block.shortcut(features(x))))

    def _upsample(self, layer: Upsample, x: Rows, start: Rows, history: History) -> _Sum:
        b, t, h, w, c = x.shape
        if layer.temporal:
            halves = rows(layer.time_conv(history.extend(features(x)))).view(b, t, h, w, 2, c)
            x = halves.permute(0, 1, 4, 2, 3, 5).reshape(b, 2 * t, h, w, c)
        conv = layer.resample[1]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        if layer not in self._phases:
            self._phases[layer] = layer.phases()
        phases = F.conv2d(images(features(x)), self._phases[layer], padding=1)
        joined = rows(from_images(phases, b)).contiguous()
        return _Sum(self._join_phases(joined, conv.bias, start))

    def _normed(self, norm: ChannelNorm, s: _Sum, history: History) -> tuple[Rows, Rows]:
        """The sum, and SiLU of its norm with the past before it."""
        x, padded, kept = self._norm_silu_pad(
            s.x.contiguous(),
            norm.gamma.flatten(),
            history.take(),
            bias=s.bias,
            shortcut=None if s.shortcut is None else s.shortcut.contiguous(),
            keep=history.record,
        )
        if kept is not None:
            history.keep(kept)
        return x, padded


def _convolve(conv: CausalConv3d, padded: Rows) -> Rows:
    """The convolution of padded frames, without its bias."""
    y = F.conv3d(features(padded), conv.weight, padding=(0, 1, 1))
    return rows(y).contiguous()
