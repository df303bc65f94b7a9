"""Distribution matching distillation: move what a student makes to where the teacher sees it.

A generated video ``x`` is noised to one level, and two networks say what it was: the teacher's
``real`` and, from a critic that has learnt what the student makes, ``fake``. For each block

    g = (fake - real) / mean |x - real|            mean over the block's frames, channels, pixels
    loss = 1/2 mean (x - stop(x - g))^2            so that d loss / d x = g / (numbers in x)

No gradient goes through the two networks. Where both agree there is nothing to learn. Scores of a
block may be asked given the clean past (``context``), and are then of ``p(block | past)``: what a
teacher that was trained by teacher forcing knows.
Source: DMD2 (arXiv 2405.14867); LongLive-2.0 (arXiv 2605.18739), normalized block by block.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_core.checks import hold_reals, hold_wholes
from longlive_models.diffusion import FlowSchedule, add_noise, x0_from_velocity
from longlive_models.diffusion.flow import SHIFT, check_shift
from longlive_models.diffusion.timesteps import MOST_LEVELS, SCALE
from longlive_models.first_frame import clean_first_frame, pin_first_frame
from longlive_models.objectives.guidance import NO_GUIDANCE, Guidance, Model, Text


@dataclass(frozen=True, kw_only=True)
class ScoreTimesteps:
    """At which levels scores look: ``i / levels``, shifted, and held within two bounds.

    Close to 0 there is nothing left to judge, and at 1 nothing left to see.

    Attributes:
        shift: towards noise.
        least, most: bounds of the shifted level.
        levels: how many there are before the shift, the first of them 0.
    """

    shift: float = SHIFT
    least: float = 0.02
    most: float = 0.98
    levels: int = 1000

    def __post_init__(self) -> None:
        check_shift(self.shift)
        why = "levels to be looked at are numbers from 0 to 1, the least above 0."
        hold_reals(self, "least", above=0, at_most=1, why=why)
        hold_reals(
            self, "most", at_least=self.least, at_most=1, why=f"it is not below least. {why}"
        )
        why = "it is the number of levels that are drawn from; 1000 is usual."
        hold_wholes(self, "levels", at_least=1, at_most=MOST_LEVELS, why=why)

    def timesteps(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The timesteps (0 to 1000) of levels ``index / levels``, float32."""
        level = index.double() / self.levels
        shifted = self.shift * level / (1 + (self.shift - 1) * level)
        return (SCALE * shifted.clamp(self.least, self.most)).float()

    def draw(
        self, generator: torch.Generator, *, batch: int, frames: int, frames_per_block: int
    ) -> Float[Tensor, "batch frames"]:
        """Timesteps that are equal within a block, drawn on the generator's device.

        One level for a whole video, as text-to-video has it, is a block of all frames.
        """
        blocks = -(-frames // frames_per_block)
        index = torch.randint(
            self.levels, (batch, blocks), generator=generator, device=generator.device
        )
        return self.timesteps(index).repeat_interleave(frames_per_block, dim=1)[:, :frames]


@dataclass(frozen=True, kw_only=True, eq=False)
class Noised:
    """A generated video as scores see it: no gradients lead back to the student.

    Attributes:
        latents: float32, a given first frame as it was given.
        timesteps: 0 to 1000, 0 for a given first frame.
        sigmas: the levels of those timesteps.
    """

    latents: Float[Tensor, "B C F Y X"]
    timesteps: Float[Tensor, "B F"]
    sigmas: Float[Tensor, "B F"]


def noised(
    generated: Float[Tensor, "B C F Y X"],
    *,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    schedule: FlowSchedule,
    image: Float[Tensor, "B C 1 Y X"] | None = None,
) -> Noised:
    """``(1 - sigma) generated + sigma noise``; a first frame ``image`` is that, and clean."""
    if image is not None:
        timesteps = clean_first_frame(timesteps)
    sigmas = schedule.sigma(timesteps)
    latents = _pinned(add_noise(generated.detach(), noise, sigmas), image)
    return Noised(latents=latents, timesteps=timesteps, sigmas=sigmas)


def dmd_loss(
    generated: Float[Tensor, "B C F Y X"],
    text: Text,
    *,
    real: Model,
    fake: Model,
    negative: Text | None,
    guidance: Guidance,
    noise: Float[Tensor, "B C F Y X"],
    timesteps: Float[Tensor, "B F"],
    schedule: FlowSchedule,
    mask: AnyMask,
    frames_per_block: int,
    first_block_frames: int | None = None,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
    fake_guidance: Guidance = NO_GUIDANCE,
    normalize: bool = True,
    image: Float[Tensor, "B C 1 Y X"] | None = None,
    context: Float[Tensor, "B C F Y X"] | None = None,
    loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """The student's loss: the mean of ``g^2 / 2``, with ``g`` over the numbers as its gradient.

    Args:
        generated: a rollout, with gradients.
        text: of the prompts; the student, the teacher and the critic are asked the same.
        real: the teacher.
        fake: the critic.
        negative: features of the negative prompt; None without guidance.
        guidance: of the teacher; ``fake_guidance`` of the critic.
        noise, timesteps: what the video is noised with; timesteps of ``ScoreTimesteps``.
        mask: ``block_causal_mask``, with the student's window where it has one; with ``context`` a
            ``teacher_forcing_mask``.
        frames_per_block, first_block_frames, normalize: see ``dmd_gradient``.
        image: latents of a given first frame; leave it out of ``loss_mask`` as well.
        context: the past that each block is scored after, clean: the video itself, as a rule. For
            networks that have only ever seen a clean past, as those of teacher forcing. Without it
            the past is noised to its own level, as networks that know whole videos have it.
        loss_mask: frames that count; all if not given.

    Raises:
        ValueError: guidance without a negative text.
    """
    with torch.no_grad():
        seen = noised(generated, noise=noise, timesteps=timesteps, schedule=schedule, image=image)

        def estimate(model: Model, how: Guidance) -> Tensor:
            velocity = how.velocity(
                model,
                seen.latents,
                seen.timesteps,
                text,
                negative,
                mask=mask,
                positions=positions,
                clean=None if context is None else context.detach().float(),
            )
            return x0_from_velocity(seen.latents, velocity, seen.sigmas)

        gradient = dmd_gradient(
            _pinned(generated, image),
            real=estimate(real, guidance),
            fake=estimate(fake, fake_guidance),
            frames_per_block=frames_per_block,
            first_block_frames=first_block_frames,
            normalize=normalize,
        )
    return gradient_loss(generated, gradient, loss_mask)


def dmd_gradient(
    generated: Float[Tensor, "B C F Y X"],
    *,
    real: Float[Tensor, "B C F Y X"],
    fake: Float[Tensor, "B C F Y X"],
    frames_per_block: int,
    first_block_frames: int | None = None,
    normalize: bool = True,
) -> Float[Tensor, "B C F Y X"]:
    """``(fake - real) / mean |x - real|`` of each block, float32; 0 where that mean is 0.

    ``real`` and ``fake`` are estimates of the clean video. Without ``normalize`` nothing is
    divided: blocks that are far off then outweigh the others.
    """
    generated, real, fake = generated.detach().float(), real.float(), fake.float()
    direction = fake - real
    if not normalize:
        return direction
    first = frames_per_block if first_block_frames is None else first_block_frames
    frames = torch.arange(generated.shape[2], dtype=torch.int64, device=generated.device)
    block = (frames + frames_per_block - first) // frames_per_block
    same = (block[:, None] == block).float()
    distance = (generated - real).abs().mean((1, 3, 4)) @ (same / same.sum(1))
    scale = torch.where(distance > 0, 1 / distance, 0)
    return direction * scale[:, None, :, None, None]


def gradient_loss(
    generated: Float[Tensor, "B C F Y X"],
    gradient: Float[Tensor, "B C F Y X"],
    loss_mask: Bool[Tensor, "B F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """A loss whose gradient by ``generated`` is ``gradient`` over the numbers that count.

    ``1/2 mean (x - stop(x - g))^2`` in float64, where ``x - (x - g)`` is ``g`` to the last bit of
    a float32 ``g``. Frames outside ``loss_mask`` count nothing; the loss is 0 if none is inside.
    """
    x = generated.double()
    squares = (x - (x - gradient).detach()).square()
    if loss_mask is None:
        return 0.5 * squares.mean()
    counted = loss_mask.double()[:, None, :, None, None].expand_as(squares)
    return 0.5 * (squares * counted).sum() / counted.sum().clamp_min(torch.finfo(x.dtype).tiny)


def _pinned(latents: Tensor, image: Tensor | None) -> Tensor:
    return latents if image is None else pin_first_frame(latents, image=image)
