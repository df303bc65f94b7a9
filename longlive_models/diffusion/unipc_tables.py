"""Tables of constants for UniPC (arXiv 2302.04867), a predictor and a corrector of order 2."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_models.diffusion.flow import SHIFT, x0_from_velocity
from longlive_models.diffusion.step_schedules import MOST_STEPS, StepSchedule, truncated_timesteps
from longlive_models.diffusion.timesteps import check_steps, sigma_grid

FIRST_SIGMA = torch.tensor(0.999, dtype=torch.float32, device="cpu").item()
"""Where UniPC's grid starts before the shift: 0.999 as a float32 number, so that truncating
1000 times it gives 999."""


@dataclass(frozen=True, kw_only=True)
class UniPCSchedule(StepSchedule):
    """UniPC of order 2 as constants; row i belongs to step i, both tables have ``steps`` rows.

    ``correct`` rows weigh (previous sample, x0 now, previous x0, x0 before that) to the corrected
    sample of step i; ``predict`` rows weigh (corrected sample, x0 now, previous x0) to the next.
    """

    correct: tuple[tuple[float, float, float, float], ...]
    predict: tuple[tuple[float, float, float], ...]


class UniPCHistory(NamedTuple):
    """The history that a step passes on: the corrected sample and the last two x0 estimates."""

    sample: Tensor
    x0: Tensor
    previous_x0: Tensor


def unipc_schedule(steps: int, shift: float = SHIFT) -> UniPCSchedule:
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
        timesteps=truncated_timesteps(steps, shift, first=FIRST_SIGMA),
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
