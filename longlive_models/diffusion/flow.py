"""Flow matching: a straight path from data to noise, and the conversions along it.

With data ``x0``, noise ``e`` and a noise level ``sigma`` in [0, 1], the path is
``x = (1 - sigma) x0 + sigma e`` and the velocity that a network predicts is ``v = e - x0``.
All results are float32, whatever the type of the inputs.

A level is a number, one per sample ([batch]), or one per latent frame ([batch, frames], for
latents [batch, channels, frames, height, width]).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import real
from longlive_core.tensor_checks import dense
from longlive_models.choices import MOST_GUIDANCE

SHIFT = 5.0
"""The shift of noise levels that LongLive-2.0 trains and samples with."""

MOST_SHIFT = 1e6
"""The largest shift; above it all levels of a schedule would be noise."""

Level = float | int | Float[Tensor, "..."]


def shift_sigma(sigma: float, shift: float) -> float:
    """Move a noise level towards noise: ``shift s / (1 + (shift - 1) s)``; fixes 0 and 1.

    Raises ValueError for a level outside [0, 1] and a shift that is not positive.
    """
    sigma, shift = check_level(sigma), check_shift(shift)
    return shift * sigma / (1 + (shift - 1) * sigma)


def align(level: Level, latents: Float[Tensor, "batch *rest"]) -> float | int | Tensor:
    """Shape a level so that it broadcasts over ``latents``; [batch, frames] meets axes 0 and 2.

    Raises ValueError for a shape that is neither [], [batch] nor [batch, frames], and for a number
    outside [0, 1].
    """
    if not isinstance(level, Tensor):
        return check_level(level)
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
    """Mix ``x0`` and ``noise`` at noise level ``sigma``; float32."""
    _require_one_shape("x0 and noise", x0, noise)
    level = align(sigma, x0)
    return (1 - level) * x0.float() + level * noise.float()


def velocity(
    x0: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The velocity of the path, ``noise - x0``: what the network is trained to predict."""
    _require_one_shape("x0 and noise", x0, noise)
    return noise.float() - x0.float()


def x0_from_velocity(
    x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], sigma: Level
) -> Float[Tensor, "*shape"]:
    """The estimate of the data from a velocity, ``x - sigma v``; float32."""
    _require_one_shape("latents and their velocity", x, v)
    return x.float() - align(sigma, x) * v.float()


def velocity_from_x0(
    x: Float[Tensor, "*shape"], x0: Float[Tensor, "*shape"], sigma: Level
) -> Float[Tensor, "*shape"]:
    """The velocity that leads to ``x0``: ``(x - x0) / sigma``; float32, ``sigma`` above 0."""
    _require_one_shape("latents and x0", x, x0)
    if not isinstance(sigma, Tensor) and sigma == 0:
        raise ValueError(
            "a velocity at noise level 0 is not determined by x and x0, which are the same there. "
            "Pass a level above 0."
        )
    return (x.float() - x0.float()) / align(sigma, x)


def guide(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance: ``unconditional + scale (conditional - unconditional)``."""
    _require_one_shape("the two branches of guidance", conditional, unconditional)
    scale = check_guidance(scale)
    return torch.lerp(unconditional.float(), conditional.float(), scale)


def check_level(sigma: float) -> float:
    """Return a noise level if it is from 0 to 1, else raise ValueError."""
    why = "it is the share of noise: 0 is none, 1 is noise alone."
    return real("a noise level", sigma, at_least=0, at_most=1, why=why)


def check_shift(shift: float) -> float:
    """Return a schedule's shift if it is above 0 and not too large, else raise ValueError."""
    why = "it multiplies the ratio of noise to data. Pass 5.0, or 1.0 for no shift."
    return real("a schedule's shift", shift, above=0, at_most=MOST_SHIFT, why=why)


def check_guidance(scale: float) -> float:
    """Return a strength of guidance; raises ValueError for one so large that no picture is left."""
    why = "it weighs the prompt against the negative one: 1 is as trained, 3 to 7 is usual."
    return real("guidance", scale, at_least=-MOST_GUIDANCE, at_most=MOST_GUIDANCE, why=why)


def _require_one_shape(what: str, a: Tensor, b: Tensor) -> None:
    for x in (a, b):
        dense(what, x, why="they are mixed number by number. Pass two tensors.")
    if a.shape != b.shape:
        raise ValueError(
            f"{what} are of one shape, got {list(a.shape)} and {list(b.shape)}: they belong "
            f"together number by number. Nothing is repeated in silence."
        )
