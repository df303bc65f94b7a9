"""Flow matching: a straight path from data to noise, and the conversions along it.

With data ``x0``, noise ``e`` and a noise level ``sigma`` in [0, 1], the path is
``x = (1 - sigma) x0 + sigma e`` and the velocity that a network predicts is ``v = e - x0``.
All results are float32, whatever the inputs: low precision is for networks, not for states.

A level is a number, one per sample ([batch]), or one per latent frame ([batch, frames], for
latents [batch, channels, frames, height, width]).
"""

import torch
from jaxtyping import Float
from torch import Tensor

Level = float | int | Float[Tensor, "..."]


def shift_sigma(sigma: float, shift: float) -> float:
    """Move a noise level towards noise: ``shift s / (1 + (shift - 1) s)``; fixes 0 and 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def align(level: Level, latents: Float[Tensor, "batch *rest"]) -> float | int | Tensor:
    """Shape a level so that it broadcasts over ``latents``; [batch, frames] meets axes 0 and 2.

    Raises ValueError for a shape that is neither [], [batch] nor [batch, frames].
    """
    if not isinstance(level, Tensor):
        return level
    level = level.float()
    if level.ndim == 0:
        return level
    if level.shape == latents.shape[:1]:
        return level.reshape(-1, *[1] * (latents.ndim - 1))
    if latents.ndim == 5 and level.shape == (latents.shape[0], latents.shape[2]):
        return level[:, None, :, None, None]
    raise ValueError(
        f"a noise level needs the shape [], [batch] or [batch, frames], got "
        f"{list(level.shape)} for latents of shape {list(latents.shape)}: each frame has one "
        f"level. Repeat the level per frame, or pass a number."
    )


def add_noise(
    x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], sigma: Level
) -> Float[Tensor, "*shape"]:
    """The point at level ``sigma`` on the path from ``x0`` to ``noise``; float32."""
    level = align(sigma, x0)
    return (1 - level) * x0.float() + level * noise.float()


def velocity(
    x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The velocity of the path, ``noise - x0``: what the network is trained to predict."""
    return noise.float() - x0.float()


def x0_from_velocity(
    x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], sigma: Level
) -> Float[Tensor, "*shape"]:
    """The data that a velocity points at: ``x - sigma v``; float32."""
    return x.float() - align(sigma, x) * v.float()


def velocity_from_x0(
    x: Float[Tensor, "*shape"], x0: Float[Tensor, "*shape"], sigma: Level
) -> Float[Tensor, "*shape"]:
    """The velocity that leads to ``x0``: ``(x - x0) / sigma``; float32, ``sigma`` above 0."""
    return (x.float() - x0.float()) / align(sigma, x)


def guide(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: ``unconditional + scale (conditional - unconditional)``."""
    return torch.lerp(unconditional.float(), conditional.float(), scale)
