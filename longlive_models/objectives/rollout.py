"""A student's own video for training: made as inference makes it, gradients through one step.

Every block is denoised against the cache that inference has, by the same generator. One exit step
carries gradients, its clean estimate is the block, and what the cache keeps of it is detached:

    x_0 .. x_k   by the sampler, without gradients          x = x_k - sigma_k v(x_k)

so a loss on a block trains the step that made it, not the blocks before it. Exit steps are random,
so that every step is trained; all ranks draw the same one, from a generator of the same seed.
Source: self forcing (arXiv 2506.08009); LongLive-2.0 (arXiv 2605.18739), backward simulation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import whole
from longlive_models.diffusion import BlockSampler
from longlive_models.finite import Checks
from longlive_models.generator import BlockGenerator
from longlive_models.prompts.storyboard import PromptSchedule


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """A generated video.

    Attributes:
        latents: float32; of the blocks that train, with gradients.
        exit_steps: of each block, the step that made it.
        checks: of each block, whether its numbers are numbers.
    """

    latents: Float[Tensor, "B C F Y X"]
    exit_steps: tuple[int, ...]
    checks: tuple[Checks, ...]


def draw_exit_steps(
    sampler: BlockSampler, generator: torch.Generator, *, blocks: int, same: bool = True
) -> tuple[int, ...]:
    """The exit step of each block, uniform over the steps that it has.

    ``same`` takes the same share of the way for all blocks: where they have equally many steps,
    the same step. Otherwise each block has a draw of its own.
    """
    why = "a rollout has one block or more."
    blocks = whole("blocks of a rollout", blocks, at_least=1, why=why)
    shares = torch.rand(
        1 if same else blocks, generator=generator, device=generator.device, dtype=torch.float64
    ).tolist()
    shares = shares * blocks if same else shares
    return tuple(int(share * sampler.schedule(n).steps) for n, share in enumerate(shares))


def self_rollout(
    generator: BlockGenerator,
    schedules: Sequence[PromptSchedule],
    *,
    exit_steps: Sequence[int],
    trained_blocks: int | None = None,
    on_trained: Callable[[int, Tensor], None] | None = None,
) -> Rollout:
    """Generate as many blocks as there are exit steps, for a loss on the last of them.

    Weights must not change before the backward pass.

    Args:
        generator: new, or after blocks that are no part of this; with a seed and a sample of the
            cache for each video.
        schedules: the prompts of each video.
        exit_steps: of each block, from ``draw_exit_steps``.
        trained_blocks: how many of the last blocks carry gradients: all if not given, none if 0,
            as a critic's rollout has it.
        on_trained: called with the number and the latents of each block that carries gradients,
            before the next one is made. It computes the gradients that it wants of the block, which
            then lets go of them: memory is that of one block, however long the video.

    Raises:
        ValueError: a step that a block does not have; more trained blocks than there are, or as
            ``BlockGenerator.rollout``.
    """
    if not exit_steps:
        raise ValueError(
            "a rollout without exit steps has no blocks: there is one step for each of them. Draw "
            "them with draw_exit_steps."
        )
    if trained_blocks is None:
        trained_blocks = len(exit_steps)
    why = f"the rollout has {len(exit_steps)} blocks. Pass None to train all of them."
    trained_blocks = whole(
        "trained_blocks", trained_blocks, at_least=0, at_most=len(exit_steps), why=why
    )
    first = generator.cache.blocks
    made: list[Tensor] = []
    checks: list[Checks] = []
    for number, exit_step in enumerate(exit_steps):
        prompts = [schedule.block(first + number) for schedule in schedules]
        trains = number >= len(exit_steps) - trained_blocks
        block = generator.rollout(first + number, prompts, exit_step=exit_step, gradients=trains)
        latents = block.latents
        if trains and on_trained is not None:
            on_trained(number, latents)
            latents = latents.detach()
        made.append(latents)
        checks.append(block.checks)
    return Rollout(
        latents=torch.cat(made, dim=2), exit_steps=tuple(exit_steps), checks=tuple(checks)
    )
