"""What a critic learns: the velocities of videos that the student makes, by flow matching.

    x_t = (1 - sigma) x + sigma e        loss = mean (v(x_t) - (e - x))^2

over numbers that count, no level weighing more than another. ``x`` comes from a rollout without
gradients, with its own noise and exit step, of the student as it is.
Source: DMD2 (arXiv 2405.14867); LongLive-2.0 (arXiv 2605.18739), the fake score.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_models.diffusion import FlowSchedule, velocity
from longlive_models.objectives.dmd import noised
from longlive_models.objectives.guidance import NO_GUIDANCE, Model, Text
from longlive_models.objectives.teacher_forcing import counted_mean


def critic_loss(
    critic: Model,
    generated: Float[Tensor, "B C F Y X"],
    text: Text,
    *,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    schedule: FlowSchedule,
    mask: AnyMask,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    image: Float[Tensor, "B C 1 Y X"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
    loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """The critic's loss on a generated video; float32, 0 if no frame counts.

    Gradients go to the critic alone. ``text``, ``mask``, ``positions`` and ``image`` are those of
    the student's rollout: a critic that is asked otherwise scores another distribution.
    ``timesteps`` come from ``ScoreTimesteps``; ``loss_mask`` says which frames count, and leaves
    out a given first frame. ``context`` is the clean past that ``dmd_loss`` gives both networks.
    """
    seen = noised(generated, noise=noise, timesteps=timesteps, schedule=schedule, image=image)
    predicted = NO_GUIDANCE.velocity(
        critic,
        seen.latents,
        seen.timesteps,
        text,
        None,
        mask=mask,
        positions=positions,
        clean=None if context is None else context.detach().float(),
    )
    errors = (predicted - velocity(generated.detach(), noise)).square().mean((1, 3, 4))
    return counted_mean(errors, loss_mask)
