"""Consistency distillation under teacher forcing: one step of the student is many of the teacher's.

Levels ``1 = s_0 > s_1 > .. > s_N = 0`` are fixed. A noisy block at level ``s_n``, given the clean
blocks before it, is moved one step along the teacher's guided velocity ``w``; where the student's
target network points to from there is where the student must point to from ``s_n``:

    x_n     = (1 - s_n) x0 + s_n e
    x_n+1   = x_n + (s_n+1 - s_n) w(x_n)
    f(x, s) = x - s v(x, s)                       so that f(x, 0) = x
    loss    = mean (f(x_n, s_n) - stop f_target(x_n+1, s_n+1))^2

The student learns the guided flow: it samples without guidance, in as few steps as one. The
target's weights are a moving average of the student's, which the caller keeps.
Source: consistency models (arXiv 2303.01469), guided as in latent consistency models (arXiv
2310.04378), under the teacher forcing of LongLive-2.0 (arXiv 2605.18739).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_models.diffusion import StepSchedule, add_noise, x0_from_velocity
from longlive_models.objectives.guidance import Guidance, Model, Text
from longlive_models.objectives.teacher_forcing import counted_mean


@dataclass(frozen=True, kw_only=True, eq=False)
class ConsistencyTargets:
    """What a student is asked, and what it should answer; no gradients.

    Attributes:
        noisy: latents at the levels of the steps, float32.
        timesteps: what the student is told of them, 0 to 1000.
        sigmas: those levels.
        context: the clean past that blocks see, float32.
        estimate: the clean latents that the target points to one step further on, float32.
    """

    noisy: Float[Tensor, "B C F Y X"]
    timesteps: Float[Tensor, "B F"]
    sigmas: Float[Tensor, "B F"]
    context: Float[Tensor, "B C F Y X"]
    estimate: Float[Tensor, "B C F Y X"]


def draw_steps(
    levels: StepSchedule,
    generator: torch.Generator,
    *,
    batch: int,
    frames: int,
    frames_per_block: int,
) -> Int[Tensor, "batch frames"]:
    """One step of ``levels`` for each block, uniform; drawn on the generator's device."""
    blocks = -(-frames // frames_per_block)
    steps = torch.randint(
        levels.steps, (batch, blocks), generator=generator, device=generator.device
    )
    return steps.repeat_interleave(frames_per_block, dim=1)[:, :frames]


@torch.no_grad()
def consistency_targets(
    latents: Float[Tensor, "B C F Y X"],
    text: Text,
    *,
    teacher: Model,
    target: Model,
    negative: Text | None,
    guidance: Guidance,
    noise: Float[Tensor, "B C F Y X"],
    steps: Int[Tensor, "B F"],
    levels: StepSchedule,
    mask: AnyMask,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
) -> ConsistencyTargets:
    """One guided step of the teacher, and the target's estimate after it.

    Args:
        latents: clean.
        text: of the prompts; one or more segments.
        teacher: a model of velocities, many steps good.
        target: the student under its averaged weights, or the student itself.
        negative: features of the negative prompt; None without guidance.
        guidance: of the teacher, which the student learns.
        noise: standard normal.
        steps: of ``draw_steps``; drawn on the CPU, checking them waits for no device.
        levels: of ``step_schedule(n, shift)``. Let the student's number of steps divide ``n``:
            its own levels are among them then.
        mask: ``teacher_forcing_mask``.
        context: the past that blocks see, where it is not ``latents`` themselves.

    Raises:
        ValueError: a step that ``levels`` does not have, or guidance without a negative text.
    """
    if int(steps.min()) < 0 or int(steps.max()) >= levels.steps:
        raise ValueError(
            f"steps of a consistency are 0 to {levels.steps - 1}, got {int(steps.min())} to "
            f"{int(steps.max())}: each leads from a level to the next. Draw them with draw_steps."
        )
    steps = steps.to(latents.device)
    sigmas, timesteps = _at(levels.sigmas, steps), _at(levels.timesteps, steps)
    after, told = _at(levels.sigmas, steps + 1), _at((*levels.timesteps, 0.0), steps + 1)
    noisy = add_noise(latents, noise, sigmas)
    past = (latents if context is None else context).to(noisy.dtype)
    velocity = guidance.velocity(
        teacher,
        noisy,
        timesteps,
        text,
        negative,
        mask=mask,
        positions=positions,
        clean=past,
    )
    moved = noisy + (after - sigmas)[:, None, :, None, None] * velocity
    estimate = _point(target, moved, told, after, past, text, mask, positions)
    return ConsistencyTargets(
        noisy=noisy, timesteps=timesteps, sigmas=sigmas, context=past, estimate=estimate
    )


def consistency_loss(
    student: Model,
    targets: ConsistencyTargets,
    text: Text,
    *,
    mask: AnyMask,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """The mean squared difference to the targets, over frames that count; float32.

    ``text``, ``mask`` and ``positions`` are those that the targets were made with; gradients go to
    the student alone. The loss is 0 if ``loss_mask`` counts no frame.
    """
    errors = consistency_errors(student, targets, text, mask=mask, positions=positions)
    return counted_mean(errors, loss_mask)


def consistency_errors(
    student: Model,
    targets: ConsistencyTargets,
    text: Text,
    *,
    mask: AnyMask,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, "B F"]:
    """The mean squared difference to the targets of each frame; see ``consistency_loss``."""
    estimate = _point(
        student,
        targets.noisy,
        targets.timesteps,
        targets.sigmas,
        targets.context,
        text,
        mask,
        positions,
    )
    return (estimate - targets.estimate).square().mean((1, 3, 4))


def _point(
    model: Model,
    noisy: Tensor,
    timesteps: Tensor,
    sigmas: Tensor,
    context: Tensor,
    text: Text,
    mask: AnyMask,
    positions: Tensor | None,
) -> Tensor:
    """The clean latents that a model points to, each block given the clean ones before it."""
    velocity = model(
        noisy,
        timesteps,
        text,
        positions=positions,
        mask=mask,
        clean=context,
        clean_timesteps=torch.zeros_like(timesteps),
    )
    return x0_from_velocity(noisy, velocity, sigmas)


def _at(numbers: tuple[float, ...], steps: Tensor) -> Tensor:
    table = torch.tensor(numbers, dtype=torch.float32, device=steps.device)
    return table[steps]
