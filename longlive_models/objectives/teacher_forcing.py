"""The loss of autoregressive training: predict each block's velocity given the clean past.

Every block is denoised in one forward. The model sees the video twice, clean and noisy, and a mask
lets a noisy block see the clean blocks before it: what a cache shows when the block is generated.

Source: LongLive-2.0 (arXiv 2605.18739), teacher forcing with block-wise timesteps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_models.diffusion import FlowSchedule, add_noise, velocity
from longlive_models.wan import TextContext

Model = Callable[..., Tensor]


def teacher_forcing_loss(
    model: Model,
    latents: Float[Tensor, "B C F Y X"],
    text: Float[Tensor, "B segments length width"] | TextContext,
    *,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    mask: AnyMask,
    schedule: FlowSchedule,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
    context_noise: float | Float[Tensor, "B F"] = 0.0,
    loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """The weighted squared error of the velocity: sum over frames, over the number of frames.

    ``loss_mask`` is 1 for frames that count, and 0 for a given first frame and for padding. The sum
    of the losses of frames that count is divided by their number; the result is 0 if none does. The
    other arguments are those of ``frame_losses``.
    """
    losses = frame_losses(
        model,
        latents,
        text,
        noise=noise,
        timesteps=timesteps,
        mask=mask,
        schedule=schedule,
        positions=positions,
        context=context,
        context_noise=context_noise,
    )
    return counted_mean(losses, loss_mask)


def counted_mean(
    losses: Float[Tensor, "B F"], loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None
) -> Float[Tensor, ""]:
    """The mean over frames, or the sum over what counts by how much counts; 0 if nothing does."""
    if loss_mask is None:
        return losses.mean()
    counted = loss_mask.float()
    return (losses * counted).sum() / counted.sum().clamp_min(torch.finfo(torch.float32).tiny)


def frame_losses(
    model: Model,
    latents: Float[Tensor, "B C F Y X"],
    text: Float[Tensor, "B segments length width"] | TextContext,
    *,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    mask: AnyMask,
    schedule: FlowSchedule,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
    context_noise: float | Float[Tensor, "B F"] = 0.0,
) -> Float[Tensor, "B F"]:
    """The loss of each latent frame: ``weight(t) * mean((v - (noise - x0))^2)``, in float32.

    ``timesteps`` come from ``schedule.draw``, equal within a block. ``mask`` is a
    ``teacher_forcing_mask``. ``context`` replaces ``latents`` as the clean half, for a past that
    has the errors of generation. ``context_noise`` is the timestep of the clean half: above 0, the
    context is mixed with the same noise to that level, and the model gets that timestep.
    """
    return teacher_forced(
        model,
        latents,
        text,
        noise=noise,
        timesteps=timesteps,
        mask=mask,
        schedule=schedule,
        positions=positions,
        context=context,
        context_noise=context_noise,
    ).losses


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherForced:
    """What a forward of teacher forcing gives.

    Attributes:
        noisy: the input, float32.
        predicted: the velocity that the model gave for it.
        missed: that velocity less the true one, float32.
        losses: of each latent frame, as ``frame_losses`` has them.
    """

    noisy: Float[Tensor, "B C F Y X"]
    predicted: Float[Tensor, "B C F Y X"]
    missed: Float[Tensor, "B C F Y X"]
    losses: Float[Tensor, "B F"]

    def detached(self) -> "TeacherForced":
        """The same numbers without what the backward pass needs."""
        return TeacherForced(**{name: value.detach() for name, value in vars(self).items()})


def teacher_forced(
    model: Model,
    latents: Float[Tensor, "B C F Y X"],
    text: Float[Tensor, "B segments length width"] | TextContext,
    *,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    mask: AnyMask,
    schedule: FlowSchedule,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    start: Float[Tensor, "B C F Y X"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
    context_noise: float | Float[Tensor, "B F"] = 0.0,
) -> TeacherForced:
    """One forward, with all that ``frame_losses`` computes on the way.

    ``start`` replaces ``latents`` as what is noised, and the velocity still leads to ``latents``.
    The other arguments are those of ``frame_losses``.
    """
    noisy = add_noise(latents if start is None else start, noise, schedule.sigma(timesteps))
    context = latents if context is None else context
    context_timesteps = torch.zeros_like(timesteps)
    if isinstance(context_noise, Tensor) or context_noise > 0:
        context_timesteps = context_timesteps + context_noise
        context = add_noise(context, noise, schedule.sigma(context_timesteps))
    predicted = model(
        noisy,
        timesteps,
        text,
        positions=positions,
        mask=mask,
        clean=context.to(noisy.dtype),
        clean_timesteps=context_timesteps,
    )
    missed = predicted.float() - velocity(latents, noise)
    losses = schedule.weight(timesteps) * missed.square().mean((1, 3, 4))
    return TeacherForced(noisy=noisy, predicted=predicted, missed=missed, losses=losses)
