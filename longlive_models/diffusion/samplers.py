"""Samplers, which turn noise into latents by a few calls of ``denoise(x, timestep) -> velocity``.

A sampler is a row of ``SAMPLERS``: its noise levels, and a function for one step. A model's
settings, ``pipe(..., sampler=)`` and ``longlive generate --sampler`` choose one by name. Sampling
computes with float32 latents, without a host synchronization and without state between calls.
``constrain`` maps the latents before each call and once at the end: image-to-video pins its first
frame with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from longlive_models.block_steps import BlockSteps, check_block_steps, steps_of_block
from longlive_models.choices import check_sampler
from longlive_models.diffusion.flow import add_noise, check_shift, x0_from_velocity
from longlive_models.diffusion.step_schedules import StepSchedule, step_schedule
from longlive_models.diffusion.unipc_tables import UniPCSchedule, unipc_schedule, unipc_step

Denoise = Callable[[Tensor, float], Tensor]
"""A function of latents and a timestep from 0 (clean) to 1000 (noise) that returns the velocity, of
the same shape."""

Constrain = Callable[[Tensor], Tensor]
"""A function of latents that returns latents of the same shape with given frames put in."""

StepDone = Callable[[int, Tensor], None]
"""Called after each step with its number, from 0, and the latents after it."""

FreshNoise = Callable[[int], Tensor]
"""A function of a step's number (1 and up) that returns normal noise of the latents' shape."""

Step = Callable[[Any, int, Tensor, Tensor, Any, FreshNoise], tuple[Tensor, Any]]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler: its noise levels, and a function for one step.

    Attributes:
        name: its name in settings and options.
        schedule: a function of the number of steps and the shift that makes the noise levels.
        step: ``(schedule, step, x, velocity, history, fresh_noise)`` to the latents that step
            ``step + 1`` starts from (after the last step: the result) and the history that it
            needs; ``history`` is None at step 0.
    """

    name: str
    schedule: Callable[[int, float], StepSchedule]
    step: Step


def unchanged(x: Tensor) -> Tensor:
    """The constraint that does nothing."""
    return x


def no_fresh_noise(step: int) -> Tensor:
    """The ``fresh_noise`` of samplers that need none. Raises ValueError if it is called."""
    raise ValueError(
        f"step {step} of this sampler starts from fresh noise, and none was given: pass "
        f"fresh_noise, a function of the step."
    )


def sample(
    sampler: Sampler,
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: StepSchedule,
    *,
    fresh_noise: FreshNoise = no_fresh_noise,
    constrain: Constrain = unchanged,
    on_step: StepDone | None = None,
    stop: int | None = None,
) -> Float[Tensor, "*shape"]:
    """Denoise with a sampler.

    Args:
        sampler: a row of ``SAMPLERS``.
        denoise: called once for each step; see ``Denoise``.
        noise: the latents before step 0.
        schedule: the noise levels, made by ``sampler.schedule``.
        fresh_noise: see ``FreshNoise``.
        constrain: see ``Constrain``.
        on_step: called after each step with its number and the latents.
        stop: the first step that is not taken; None takes all of them.

    Returns:
        the latents, float32; with ``stop``, those before that step.
    """
    x, history = noise.float(), None
    for step, timestep in enumerate(schedule.timesteps[:stop]):
        x = constrain(x)
        x, history = sampler.step(schedule, step, x, denoise(x, timestep), history, fresh_noise)
        if on_step is not None:
            on_step(step, x)
    return constrain(x)


def _unipc(
    schedule: UniPCSchedule,
    step: int,
    x: Tensor,
    velocity: Tensor,
    history: Any,
    fresh_noise: FreshNoise,
) -> tuple[Tensor, Any]:
    """Predict the next sample, once the one before is corrected; see ``unipc_step``."""
    return unipc_step(schedule, step, x, velocity, history)


def _euler(
    schedule: StepSchedule,
    step: int,
    x: Tensor,
    velocity: Tensor,
    history: Any,
    fresh_noise: FreshNoise,
) -> tuple[Tensor, Any]:
    """Go straight along the velocity to the next level."""
    change = schedule.sigmas[step + 1] - schedule.sigmas[step]
    return x + change * velocity.float(), None


def _few_step(
    schedule: StepSchedule,
    step: int,
    x: Tensor,
    velocity: Tensor,
    history: Any,
    fresh_noise: FreshNoise,
) -> tuple[Tensor, Any]:
    """Jump to the clean estimate, and add new noise up to the next level."""
    x0 = x0_from_velocity(x, velocity, schedule.sigmas[step])
    if step + 1 == schedule.steps:
        return x0, None
    return add_noise(x0, fresh_noise(step + 1), schedule.sigmas[step + 1]), None


SAMPLERS = {
    row.name: row
    for row in (
        Sampler(name="unipc", schedule=unipc_schedule, step=_unipc),
        Sampler(name="euler", schedule=step_schedule, step=_euler),
        Sampler(name="few_step", schedule=step_schedule, step=_few_step),
    )
}
"""All samplers by name. ``choices.SAMPLERS`` has the same names without importing torch.

========= ======================================================================================
unipc     Order 2 with a corrector; good from 2 steps on. The default.
euler     One straight piece a step: the reference for the others.
few_step  Jumps to the clean estimate and adds noise again: for distilled models, whose estimate
          is good at every level.
========= ======================================================================================
"""


@dataclass(frozen=True, kw_only=True)
class BlockSampler:
    """A sampler with the numbers of steps of all blocks of a video.

    Attributes:
        name: a name of ``SAMPLERS``.
        steps: the steps of every block; or of block 0, block 1, ..., the last number for all
            later blocks.
        shift: the shift of the noise levels.

    Raises ValueError for a name, steps or a shift that are not valid.
    """

    name: str
    steps: BlockSteps
    shift: float

    def __post_init__(self) -> None:
        check_sampler(self.name)
        object.__setattr__(self, "steps", check_block_steps("steps", self.steps))
        check_shift(self.shift)

    @property
    def sampler(self) -> Sampler:
        """The row of ``SAMPLERS``."""
        return SAMPLERS[self.name]

    def schedule(self, block: int) -> StepSchedule:
        """The noise levels of block ``block``, which is counted from 0."""
        return self._schedules[steps_of_block(self.steps, block)]

    @cached_property
    def _schedules(self) -> dict[int, StepSchedule]:
        """The schedule of each number of steps that a block has."""
        numbers = (self.steps,) if isinstance(self.steps, int) else self.steps
        return {steps: self.sampler.schedule(steps, self.shift) for steps in numbers}


def unipc(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: UniPCSchedule,
    *,
    constrain: Constrain = unchanged,
    on_step: StepDone | None = None,
) -> Float[Tensor, "*shape"]:
    """Sample with UniPC: the default sampler, good from 2 steps on.

    ``on_step(step, sample)`` is called after each step.
    """
    row = SAMPLERS["unipc"]
    return sample(row, denoise, noise, schedule, constrain=constrain, on_step=on_step)


def euler(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: StepSchedule,
    *,
    constrain: Constrain = unchanged,
) -> Float[Tensor, "*shape"]:
    """Sample along the velocity, one straight piece a step: the reference for the others."""
    return sample(SAMPLERS["euler"], denoise, noise, schedule, constrain=constrain)


def few_step(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: StepSchedule,
    *,
    fresh_noise: FreshNoise,
    constrain: Constrain = unchanged,
) -> Float[Tensor, "*shape"]:
    """Sample by jumping to x0 and back to the next level, with new noise each time.

    ``fresh_noise(step)`` gives the noise that step ``step`` (1 and up) starts from. For distilled
    models whose x0 estimate is good at every level.
    """
    row = SAMPLERS["few_step"]
    return sample(row, denoise, noise, schedule, fresh_noise=fresh_noise, constrain=constrain)
