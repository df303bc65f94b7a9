"""FlowSchedule: the noise levels and loss weights of training, and how timesteps are drawn.

A timestep is 1000 times a noise level, in float32 and never rounded to bfloat16, which would
leave 294 of 1000 levels. See LongLive-2.0 (arXiv 2605.18739), flow-matching training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longlive_core.checks import hold_switches, hold_wholes, real, shown, whole
from longlive_models.diffusion.flow import SHIFT, check_level, check_shift, shift_sigma

SCALE = 1000.0
"""Timesteps per unit of sigma."""

WEIGHTINGS = ("bell", "uniform")
"""How losses weigh noise levels: the original's bell, or all the same."""

MOST_LEVELS = 2**24
"""The most levels: so many even ones can be told apart in float32."""


def sigma_grid(
    steps: int, shift: float, *, first: float = 1.0, last: float = 0.0, endpoint: bool = False
) -> tuple[float, ...]:
    """``steps`` shifted levels, evenly spaced from ``first`` to ``last`` before the shift.

    Like a half-open range, the grid leaves ``last`` out unless ``endpoint``.
    """
    steps, shift = check_steps(steps, at_most=MOST_LEVELS), check_shift(shift)
    first, last = check_level(first), check_level(last)
    gaps = max(steps - 1, 1) if endpoint else steps
    return tuple(shift_sigma(first + (last - first) * i / gaps, shift) for i in range(steps))


def loss_weights(timesteps: Sequence[float], *, span: float = SCALE) -> tuple[float, ...]:
    """The loss weight of each timestep: a bell curve around ``span / 2`` with a minimum of 0.

    ``y = exp(-2 ((t - span / 2) / span)^2)``; the weights ``y - min y`` are scaled to mean 1.
    """
    span = real("the span of loss weights", span, above=0, why="the bell is as wide.")
    timesteps = [real("a timestep", t, why="it is 1000 times a noise level.") for t in timesteps]
    if not timesteps:
        raise ValueError("loss weights of no timesteps: their mean cannot be 1. Pass some.")
    bell = [math.exp(-2 * ((t - span / 2) / span) ** 2) for t in timesteps]
    low = min(bell)
    total = math.fsum(y - low for y in bell)
    if total == 0:
        raise ValueError(
            f"loss weights need at least two different heights of the bell, got "
            f"{len(bell)} timesteps of one height: their mean cannot be 1. Use more levels."
        )
    return tuple((y - low) * len(bell) / total for y in bell)


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """The table of training levels, ``1 - i / levels`` shifted, noisiest first.

    ``parity`` keeps the original's table, whose last level is the least noisy one of training
    (sigma 0.00498 at 1000 levels and shift 5), so timestep 0 means that level. Otherwise one more
    level of sigma 0 and weight 0 ends the table, and timestep 0 means no noise.

    ``weighting`` "bell" is ``loss_weights``, which leaves little to the noisiest levels, where what
    moves how is decided; "uniform" weighs every level with 1.
    """

    shift: float = SHIFT
    levels: int = 1000
    parity: bool = False
    weighting: str = "bell"

    def __post_init__(self) -> None:
        why = "it is the number of training's levels; 1000 is usual."
        hold_wholes(self, "levels", at_least=1, at_most=MOST_LEVELS, why=why)
        hold_switches(self, "parity", why="it copies the original's table. Leave it out.")
        check_shift(self.shift)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"FlowSchedule.weighting is one of {', '.join(WEIGHTINGS)}, got "
                f"{shown(self.weighting)}: it says how losses weigh noise levels."
            )

    @cached_property
    def sigmas(self) -> Float[Tensor, " table"]:
        """The levels, decreasing, float32 on the CPU."""
        return _table(sigma_grid(self.levels, self.shift) + self._tail)

    @cached_property
    def timesteps(self) -> Float[Tensor, " table"]:
        """1000 times each level, float32 on the CPU."""
        grid = sigma_grid(self.levels, self.shift) + self._tail
        return _table([SCALE * sigma for sigma in grid])

    @cached_property
    def weights(self) -> Float[Tensor, " table"]:
        """The loss weight of each level, mean 1 over the training levels, float32 on the CPU."""
        if self.weighting == "uniform":
            return _table((1.0,) * self.levels + self._tail)
        grid = sigma_grid(self.levels, self.shift)
        return _table(loss_weights([SCALE * sigma for sigma in grid]) + self._tail)

    def index(self, timesteps: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The table entry nearest to each timestep, the noisier one of two as near."""
        table = self.timesteps.to(timesteps.device)
        return (timesteps.float().unsqueeze(-1) - table).abs().argmin(dim=-1)

    def timestep(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The timestep of each table entry, float32."""
        return self.timesteps.to(index.device)[index]

    def sigma(self, timesteps: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The noise level of the entry nearest to each timestep, float32."""
        return self.sigmas.to(timesteps.device)[self.index(timesteps)]

    def weight(self, timesteps: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The loss weight of the entry nearest to each timestep, float32."""
        return self.weights.to(timesteps.device)[self.index(timesteps)]

    def draw(
        self, generator: torch.Generator, *, batch: int, frames: int, frames_per_block: int
    ) -> Float[Tensor, "batch frames"]:
        """Timesteps for training, one uniform level per block, equal within a block; float32.

        Drawn on the generator's device. A last block of fewer frames is allowed.
        """
        sizes = {"batch": batch, "frames": frames, "frames_per_block": frames_per_block}
        for name, size in sizes.items():
            why = "timesteps are drawn for one block or more, and kept in memory."
            whole(name, size, at_least=1, at_most=MOST_LEVELS, why=why)
        blocks = -(-frames // frames_per_block)
        index = torch.randint(
            self.levels, (batch, blocks), generator=generator, device=generator.device
        )
        return self.timestep(index).repeat_interleave(frames_per_block, dim=1)[:, :frames]

    @property
    def _tail(self) -> tuple[float, ...]:
        return () if self.parity else (0.0,)


def _table(levels: Sequence[float]) -> Float[Tensor, " table"]:
    return torch.tensor(levels, dtype=torch.float32, device="cpu")


def check_steps(steps: int, *, at_most: int) -> int:
    """Return a number of steps or levels if it is valid, else raise ValueError."""
    why = (
        f"with none nothing would be denoised, and there are {at_most} different ones at most. "
        f"Pass 1 or more."
    )
    return whole("a schedule's steps", steps, at_least=1, at_most=at_most, why=why)
