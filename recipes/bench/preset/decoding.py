"""How the plain path decodes, and whether a pipeline's frames are inside its tier."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from longlive_core.backends import Request
from longlive_models import LongLivePipeline
from longlive_models.vae import DecodeOptions
from longlive_models.vae.decoding import DECODERS

MEAN, MOST, SHARE = 0.25, 2, 0.999
"""Bounds of bytes against the plain path's: the mean difference, and the share of those that differ
by no more than ``MOST``; convolutions of other numbers of frames round in other ways."""


@dataclass(frozen=True, kw_only=True)
class DecodeError:
    """How far a pipeline's frames are from those of the plain path.

    Attributes:
        same: whether it has the bits of its own operations one by one; True where none are fused.
        mean: the mean difference of bytes, in levels of 255.
        near: the share of bytes within ``MOST``.
    """

    same: bool
    mean: float
    near: float

    @property
    def problem(self) -> str | None:
        """Why it is outside its tier; None if it is inside."""
        if not self.same:
            return "its fused passes have other bits than their operations one by one"
        if self.mean > MEAN or self.near < SHARE:
            return f"frames are {self.mean:.3g} levels off, {self.near:.4%} within {MOST}"
        return None


def plain_decoding(frames: int) -> DecodeOptions:
    """The layers one by one, all latents of a block in one call."""
    return DecodeOptions(latents=frames, backend="modules")


@torch.no_grad()
def decode_error(pipe: LongLivePipeline, first: Tensor, later: Tensor) -> DecodeError:
    """Decode a block after another one in each way. What the pipeline does stays as it is."""
    vae, how = pipe.vae, pipe.vae.decoding
    weight = vae.conv2.weight
    _, state = vae.decode_block(first.to(weight)[:, :, :2])
    later = later.to(weight)

    def frames(options: DecodeOptions) -> Tensor:
        vae.decode_with_(options)
        return vae.decode_block(later, state)[0]

    made = frames(how)
    request = Request(device=weight.device, dtype=weight.dtype)
    fused = DECODERS.receipt(request, how.backend).backend == "triton"
    same = not fused or torch.equal(made, frames(replace(how, backend="reference")))
    levels = _levels(made)
    off = (levels - _levels(frames(plain_decoding(later.shape[2])))).abs()
    vae.decode_with_(how)
    near = off.le(MOST).float().mean()
    return DecodeError(same=same, mean=float(off.float().mean()), near=float(near))


def _levels(video: Tensor) -> Tensor:
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().short()
