"""Step schedules: the noise levels of a block's denoising steps, and the model's timesteps.

They are plain numbers, computed once in float64.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from longlive_core.checks import real
from longlive_models.diffusion.flow import SHIFT
from longlive_models.diffusion.timesteps import SCALE, check_steps, sigma_grid

MOST_STEPS = int(SCALE)
"""The most steps: timesteps are whole numbers from 0 to 1000, and more steps would repeat one."""


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
        """The number of steps: how often the model is called."""
        return len(self.timesteps)


def step_schedule(steps: int, shift: float = SHIFT) -> StepSchedule:
    """``steps`` shifted levels from pure noise down, for ``euler`` and ``few_step``.

    Timesteps are truncated to integers, levels are not: 4 steps of shift 5 give 1000, 937, 833
    and 625, the steps that distillation trains on.
    """
    steps = check_steps(steps, at_most=MOST_STEPS)
    grid = sigma_grid(steps, shift)
    return StepSchedule(sigmas=(*grid, 0.0), timesteps=truncated_timesteps(steps, shift))


def truncated_timesteps(steps: int, shift: float, *, first: float = 1.0) -> tuple[float, ...]:
    """1000 times each shifted level, truncated to an integer. Computed in exact fractions.

    With floats a product just below an integer would lose a whole timestep: 6 steps of shift 5 have
    the timestep 500, but floats give 499.99999999999994. The shift is taken as the decimal that the
    caller wrote.
    """
    exact = Fraction(repr(float(shift)))
    levels = [Fraction(first) * (steps - i) / steps for i in range(steps)]
    return tuple(float(math.floor(int(SCALE) * exact * s / (1 + (exact - 1) * s))) for s in levels)
