"""What a VAE and a light decoder learn from, as functions of the networks and a batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from longlive_models.vae import StreamState, WanVAE
from longlive_recipes.configs.train_vae import TrainVAE

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
Decode = Callable[[Tensor, StreamState | None], tuple[Tensor, StreamState]]


def reconstruct(vae: WanVAE, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The video through latents with noise; their mean and log-variance, both float32."""
    mean, logvar = vae.moments(video)
    mean, logvar = mean.float(), logvar.float()
    sample = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    return vae.decode(vae.normalize(sample)), mean, logvar


def near_objects(coverage: Tensor) -> Tensor:
    """1 where an object or its edge lies within two pixels, else 0; shape as ``coverage``."""
    return F.max_pool3d((coverage > 0).float(), (1, 5, 5), stride=1, padding=(0, 2, 2))


def reconstruction_losses(
    config: TrainVAE, restore: Reconstruct, video: Tensor, coverage: Tensor
) -> dict[str, Tensor]:
    """The loss of a VAE on a batch of windows, and its parts.

    Args:
        config: weighs the parts.
        restore: ``reconstruct`` of the VAE, perhaps compiled.
        video: float32 [clips, 3, frames, height, width] in [-1, 1].
        coverage: float32 [clips, 1, frames, height, width] in [0, 1].
    """
    restored, mean, logvar = restore(video)
    weight = 1 + config.object_weight * near_objects(coverage)
    error = (restored.float() - video).abs()
    squared = config.squared_weight * error.square()
    picture = (weight * (error + squared)).mean() / weight.mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return {"loss": picture + config.kl_weight * kl, "picture": picture, "kl": kl}


def light_losses(teach: Decode, learn: Decode, pieces: list[Tensor]) -> dict[str, Tensor]:
    """The loss of a light decoder on the last of some pieces of clips, and its PSNR in dB.

    Args:
        teach: decodes a piece with the full decoder, from the state after the piece before.
        learn: the same with the light decoder; only the last piece has gradients.
        pieces: of the same clips in order, each [clips, channels, frames, height, width].
    """
    full: StreamState | None = None
    light: StreamState | None = None
    with torch.no_grad():
        for piece in pieces[:-1]:
            _, full = teach(piece, full)
            _, light = learn(piece, light)
        want, _ = teach(pieces[-1], full)
    got, _ = learn(pieces[-1], light)
    error = (got.float() - want.float()).abs()
    absolute, squared = error.mean(), error.square().mean()
    return {"loss": absolute + squared, "psnr": -10 * (squared.detach() / 4).log10()}
