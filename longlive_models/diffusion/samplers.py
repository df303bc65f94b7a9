"""Samplers: from noise to latents through a few calls of ``denoise(x, timestep) -> velocity``.

Schedules are plain numbers, computed once in float64; sampling is arithmetic on float32 latents
with these constants, without a host synchronization and without state that outlives a call.
``constrain`` maps the latents before each call and once at the end: image-to-video pins its first
frame with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import real
from longlive_models.diffusion.flow import add_noise, x0_from_velocity
from longlive_models.diffusion.timesteps import SCALE, check_steps, sigma_grid

Denoise = Callable[[Tensor, float], Tensor]
Constrain = Callable[[Tensor], Tensor]
StepDone = Callable[[int, Tensor], None]

FIRST_SIGMA = torch.tensor(0.999, dtype=torch.float32, device="cpu").item()
"""Where UniPC's grid starts before the shift: 0.999 as a float32 number, so that truncating
1000 times it gives 999."""

MOST_STEPS = int(SCALE)
"""More steps would repeat a timestep: they are whole numbers from 0 to 1000."""


def unchanged(x: Tensor) -> Tensor:
    """The constraint that does nothing."""
    return x


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """Noise levels (one more than there are steps, the last 0) and the timesteps of the steps."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        why = "levels and timesteps are finite numbers, and levels end at the last step's result."
        for number in (*self.sigmas, *self.timesteps):
            real("a number of a step schedule", number, at_least=0, why=why)
        if not self.timesteps or len(self.sigmas) != len(self.timesteps) + 1:
            raise ValueError(
                f"a step schedule has one step or more and one level more than steps, got "
                f"{len(self.timesteps)} timesteps and {len(self.sigmas)} levels: {why}"
            )

    @property
    def steps(self) -> int:
        """How often the model is called."""
        return len(self.timesteps)


@dataclass(frozen=True, kw_only=True)
class UniPCSchedule(StepSchedule):
    """UniPC of order 2 as constants; row i belongs to step i, both tables have ``steps`` rows.

    ``correct`` rows weigh (previous sample, x0 now, previous x0, x0 before that) to the corrected
    sample of step i; ``predict`` rows weigh (corrected sample, x0 now, previous x0) to the next.
    """

    correct: tuple[tuple[float, float, float, float], ...]
    predict: tuple[tuple[float, float, float], ...]


class UniPCHistory(NamedTuple):
    """What a step leaves to the next one: the corrected sample and the last two x0 estimates."""

    sample: Tensor
    x0: Tensor
    previous_x0: Tensor


def step_schedule(steps: int, shift: float = 5.0) -> StepSchedule:
    """``steps`` shifted levels from pure noise down, for ``euler`` and ``few_step``.

    Timesteps are truncated to integers, levels are not: 4 steps of shift 5 give 1000, 937, 833
    and 625, the steps that distillation trains on.
    """
    steps = check_steps(steps, at_most=MOST_STEPS)
    grid = sigma_grid(steps, shift)
    return StepSchedule(sigmas=(*grid, 0.0), timesteps=_timesteps(steps, shift))


def unipc_schedule(steps: int, shift: float = 5.0) -> UniPCSchedule:
    """UniPC (bh2, order 2, x0 prediction, lower order at the end) over ``steps`` shifted levels.

    The grid is even from 0.999 to 0 before the shift. Timesteps are truncated to integers, as the
    original hands them to its model: 4 steps of shift 5 give 999, 937, 833 and 624.
    See UniPC (arXiv 2302.04867), algorithms 5 and 7.
    """
    steps = check_steps(steps, at_most=MOST_STEPS)
    grid = sigma_grid(steps, shift, first=FIRST_SIGMA)
    sigmas = (*grid, 0.0)
    orders = [min(2, steps - i, i + 1) for i in range(steps)]
    none = (0.0, 0.0, 0.0, 0.0)
    return UniPCSchedule(
        sigmas=sigmas,
        timesteps=_timesteps(steps, shift, first=FIRST_SIGMA),
        correct=(none, *(_corrector(sigmas, i, orders[i - 1]) for i in range(1, steps))),
        predict=tuple(_predictor(sigmas, i, orders[i]) for i in range(steps)),
    )


def unipc_step(
    schedule: UniPCSchedule,
    step: int,
    x: Float[Tensor, "*shape"],
    velocity: Float[Tensor, "*shape"],
    history: UniPCHistory | None,
) -> tuple[Float[Tensor, "*shape"], UniPCHistory]:
    """The sample of step ``step + 1`` and the history it needs; ``history`` is None at step 0."""
    x0 = x0_from_velocity(x, velocity, schedule.sigmas[step])
    if history is None:
        sample, previous = x.float(), x0
    else:
        keep, now, last, before = schedule.correct[step]
        sample = keep * history.sample + now * x0 + last * history.x0
        sample, previous = sample + before * history.previous_x0, history.x0
    if step + 1 == schedule.steps:  # the next level is 0: the estimate itself
        return x0, UniPCHistory(sample, x0, previous)
    keep, now, last = schedule.predict[step]
    return keep * sample + now * x0 + last * previous, UniPCHistory(sample, x0, previous)


def unipc(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: UniPCSchedule,
    *,
    constrain: Constrain = unchanged,
    on_step: StepDone | None = None,
) -> Float[Tensor, "*shape"]:
    """Sample with UniPC: the default sampler, good from 2 steps on.

    ``on_step(step, sample)`` is told what each step gave.
    """
    x, history = noise.float(), None
    for step, timestep in enumerate(schedule.timesteps):
        x = constrain(x)
        x, history = unipc_step(schedule, step, x, denoise(x, timestep), history)
        if on_step is not None:
            on_step(step, x)
    return constrain(x)


def euler(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: StepSchedule,
    *,
    constrain: Constrain = unchanged,
) -> Float[Tensor, "*shape"]:
    """Sample along the velocity, one straight piece a step: the reference for the others."""
    x = noise.float()
    for step, timestep in enumerate(schedule.timesteps):
        x = constrain(x)
        change = schedule.sigmas[step + 1] - schedule.sigmas[step]
        x = x + change * denoise(x, timestep).float()
    return constrain(x)


def few_step(
    denoise: Denoise,
    noise: Float[Tensor, "*shape"],
    schedule: StepSchedule,
    *,
    fresh_noise: Callable[[int], Tensor],
    constrain: Constrain = unchanged,
) -> Float[Tensor, "*shape"]:
    """Sample by jumping to x0 and back to the next level, with new noise each time.

    ``fresh_noise(step)`` gives the noise that step ``step`` (1 and up) starts from. For distilled
    models whose x0 estimate is good at every level.
    """
    x = noise.float()
    for step, timestep in enumerate(schedule.timesteps):
        if step:
            x = add_noise(x, fresh_noise(step), schedule.sigmas[step])
        x = constrain(x)
        x = x0_from_velocity(x, denoise(x, timestep), schedule.sigmas[step])
    return constrain(x)


def _timesteps(steps: int, shift: float, *, first: float = 1.0) -> tuple[float, ...]:
    """1000 times each shifted level, truncated: of the exact product, not of its nearest float.

    A float just below an integer would lose a whole timestep: 6 steps of shift 5 have 500, and
    floats give 499.99999999999994. The shift is the decimal number that its caller wrote.
    """
    exact = Fraction(repr(float(shift)))
    levels = [Fraction(first) * (steps - i) / steps for i in range(steps)]
    return tuple(float(math.floor(int(SCALE) * exact * s / (1 + (exact - 1) * s))) for s in levels)


def _log_ratio(sigma: float) -> float:
    """Half the log of the signal-to-noise ratio of a flow at ``sigma`` in (0, 1)."""
    return math.log1p(-sigma) - math.log(sigma)


def _predictor(sigmas: tuple[float, ...], i: int, order: int) -> tuple[float, float, float]:
    """Weights of (sample i, x0 i, x0 i-1) in sample i+1."""
    now, after = sigmas[i], sigmas[i + 1]
    if after == 0:
        return 0.0, 1.0, 0.0
    h = _log_ratio(after) - _log_ratio(now)
    reach = -(1 - after) * math.expm1(-h)  # weight of a constant x0 over the step
    if order == 1:
        return after / now, reach, 0.0
    ratio = (_log_ratio(sigmas[i - 1]) - _log_ratio(now)) / h
    slope = 0.5 * reach / ratio  # of the difference of x0 i-1 and x0 i
    return after / now, reach - slope, slope


def _corrector(sigmas: tuple[float, ...], i: int, order: int) -> tuple[float, float, float, float]:
    """Weights of (sample i-1, x0 i, x0 i-1, x0 i-2) in the corrected sample i.

    ``order`` is the order of the predictor that reached sample i. The two weights of order 2
    solve the bh2 conditions ``a + b = c1`` and ``r a + b = c2``.
    """
    before, now = sigmas[i - 1], sigmas[i]
    h = _log_ratio(now) - _log_ratio(before)
    base = math.expm1(-h)
    reach = -(1 - now) * base
    if order == 1:
        return now / before, 0.5 * reach, 0.5 * reach, 0.0
    ratio = (_log_ratio(sigmas[i - 2]) - _log_ratio(before)) / h
    phi_2 = base / -h - 1
    phi_3 = phi_2 / -h - 0.5
    first, second = phi_2 / base, 2 * phi_3 / base
    older = (second - first) / (ratio - 1)
    newest = first - older
    older_slope = reach * older / ratio
    return now / before, reach * newest, reach * (1 - newest) - older_slope, older_slope
