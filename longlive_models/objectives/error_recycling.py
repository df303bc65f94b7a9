"""Teacher forcing on a past with the model's own errors, so that it learns to live with them.

A model that is trained on clean pasts meets at generation one that it made itself. What it got
wrong, ``f = (x - s v) - x0``, is kept and added back at random, block by block:

    context   c = x0 + f        f of any level: the past that a block sees
    start     x0' = x0 + f      f of the block's level: what is noised
    noise     e' = e + h        h = (1 - s)(v - v*), of the block's level

    x = (1 - s) x0' + s e'      v* = e' - x0      loss = weight(t) mean (v - v*)^2

The target leads to the clean video whatever was added.
Source: SVI (arXiv 2510.09212) and LongLive-2.0 (arXiv 2605.18739), error recycling.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_core.checks import hold_reals, hold_switches, hold_wholes
from longlive_models.diffusion import FlowSchedule, x0_from_velocity
from longlive_models.objectives.chosen_errors import ChosenErrors, Grid, put_together
from longlive_models.objectives.error_bank import Chosen, ErrorBank, ErrorBankConfig
from longlive_models.objectives.guidance import Model, Text
from longlive_models.objectives.teacher_forcing import TeacherForced, teacher_forced

Latents = Float[Tensor, "B C F Y X"]
Find = Callable[[int, int], Chosen | None]
"""An error for a block of a clip and the index of its level."""


@dataclass(frozen=True, kw_only=True)
class ErrorRecycling:
    """How often errors are added, and how they are kept.

    Attributes:
        context, start, noise: probabilities that a step's batch gets errors there.
        clean: probability that it gets none at all.
        clean_learns: probability that the errors of such a step are kept.
        first_step: before it nothing is added.
        spare_first_block: the first block of the context stays clean.
        bank: of latent errors and of noise errors, each.
    """

    context: float = 0.9
    start: float = 0.9
    noise: float = 0.01
    clean: float = 0.2
    clean_learns: float = 0.1
    first_step: int = 0
    spare_first_block: bool = False
    bank: ErrorBankConfig = field(default_factory=ErrorBankConfig)

    def __post_init__(self) -> None:
        names = "context start noise clean clean_learns"
        hold_reals(self, names, at_least=0, at_most=1, why="it is a probability.")
        hold_wholes(self, "first_step", at_least=0, why="it is a step of training.")
        hold_switches(self, "spare_first_block", why="it keeps that block's context clean.")

    @property
    def recycles(self) -> bool:
        """Whether anything is ever added."""
        return self.context > 0 or self.start > 0 or self.noise > 0

    @property
    def keeps_noise(self) -> bool:
        """Whether errors of noise are ever added, and so kept."""
        return self.noise > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrupted:
    """A batch with errors in it.

    Attributes:
        start: what is noised.
        noise: what it is noised with.
        context: the past that blocks see.
        clean: this step was chosen to have no errors.
    """

    start: Latents
    noise: Latents
    context: Latents
    clean: bool


class ErrorRecycler:
    """Keeps the errors of a run and adds them to its batches.

    Args:
        config: how often, and how they are kept.
        frames_per_block: of the model.
        dtype: that errors are kept in.
        folder: where they lie, if ``config.bank.store`` is "disk".

    Attributes:
        latent_errors, noise_errors: the banks.
    """

    def __init__(
        self,
        config: ErrorRecycling,
        *,
        frames_per_block: int,
        dtype: torch.dtype = torch.bfloat16,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        self.frames_per_block = frames_per_block
        self.latent_errors = ErrorBank(config.bank, dtype=dtype, folder=folder)
        self.noise_errors = ErrorBank(config.bank, dtype=dtype, folder=folder)

    def corrupt(
        self,
        latents: Latents,
        noise: Latents,
        index: Int[Tensor, "B F"],
        *,
        step: int,
        chance: random.Random,
    ) -> Corrupted:
        """A batch with errors of earlier steps.

        ``index`` is ``schedule.index(timesteps)``, equal within a block; ``chance`` a generator
        of the step's own, so that a resumed run draws the same.
        """
        chosen = self.choose(index, step=step, chance=chance)

        def added(to: Tensor, grid: Grid | None) -> Tensor:
            errors = None if grid is None else put_together(grid, to.device)
            return to if errors is None else to + errors.to(to.dtype)

        return Corrupted(
            start=added(latents, chosen.start),
            noise=added(noise, chosen.noise),
            context=added(latents, chosen.context),
            clean=chosen.clean,
        )

    def choose(
        self, index: Int[Tensor, "B F"], *, step: int, chance: random.Random
    ) -> ChosenErrors:
        """What ``corrupt`` adds to each block, as it lies in the banks: use it before ``learn``."""
        config = self.config
        if step < config.first_step:
            return ChosenErrors()
        if chance.random() < config.clean:
            return ChosenErrors(clean=True)
        latent, other = self.latent_errors, self.noise_errors
        # of noise as many were made, kept or not: what is drawn does not depend on it
        known_noise = other.added if config.keeps_noise else latent.added
        blocks = self._blocks(index)

        def grid(find: Find) -> Grid:
            rows: list[list[Chosen | None]] = [[] for _ in range(len(index))]
            for clip, block, _, at in blocks:
                rows[clip].append(find(block, at))
            return rows

        noise = start = context = None
        if known_noise and chance.random() < config.noise:
            noise = grid(lambda b, at: other.choose(at, chance, block=b))
        if latent.added and chance.random() < config.start:
            start = grid(lambda b, at: latent.choose(at, chance, block=b))
        if latent.added and chance.random() < config.context:
            spared = 1 if config.spare_first_block else 0
            context = grid(lambda b, _: latent.choose_any(chance, block=b) if b >= spared else None)
        return ChosenErrors(start=start, noise=noise, context=context)

    def learn(
        self,
        latent_errors: Latents,
        noise_errors: Latents | None,
        index: Int[Tensor, "B F"],
        *,
        clean: bool,
        chance: random.Random,
        counted: Bool[Tensor, "B blocks"] | None = None,
    ) -> None:
        """Keep the errors of a step, each of its blocks; of a clean step only now and then.

        Blocks that are not ``counted``, such as those that fill up a short clip, are left out, and
        errors of noise where none is ever added (``config.keeps_noise``): they need not be given.
        """
        if clean and chance.random() >= self.config.clean_learns:
            return
        errors = [(self.latent_errors, latent_errors)]
        if self.config.keeps_noise:
            assert noise_errors is not None, "errors of noise are kept"
            errors.append((self.noise_errors, noise_errors))
        blocks = self._blocks(index)
        if counted is not None:
            kept = counted.tolist()
            blocks = [one for one in blocks if kept[one[0]][one[1]]]
        for bank, of_clips in errors:
            for clip, block, frames, at in blocks:
                bank.add(of_clips[clip, :, frames], at, chance, block=block)

    def state_dict(self) -> dict[str, Any]:
        """Both banks, for a checkpoint."""
        banks = {"latent_errors": self.latent_errors, "noise_errors": self.noise_errors}
        return {name: bank.state_dict() for name, bank in banks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the errors of a checkpoint. Raises ValueError if they were kept otherwise."""
        self.latent_errors.load_state_dict(state["latent_errors"])
        self.noise_errors.load_state_dict(state["noise_errors"])

    def _blocks(self, index: Tensor) -> list[tuple[int, int, slice, int]]:
        """Each block of a batch: clip, number, frames, and the index of its level."""
        size = self.frames_per_block
        firsts = index[:, ::size].tolist()  # one wait for the device
        return [
            (clip, block, slice(block * size, (block + 1) * size), int(at))
            for clip, row in enumerate(firsts)
            for block, at in enumerate(row)
        ]


def recycled_losses(
    model: Model,
    latents: Latents,
    text: Text,
    *,
    noise: Latents,
    timesteps: Float[Tensor, "B F"],
    mask: AnyMask,
    schedule: FlowSchedule,
    recycler: ErrorRecycler,
    step: int,
    chance: random.Random,
    positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
) -> Float[Tensor, "B F"]:
    """``frame_losses`` of a batch with errors in it; its own errors are kept for later steps."""
    index = schedule.index(timesteps)
    given = recycler.corrupt(latents, noise, index, step=step, chance=chance)
    made = teacher_forced(
        model,
        latents,
        text,
        noise=given.noise,
        timesteps=timesteps,
        mask=mask,
        schedule=schedule,
        positions=positions,
        start=given.start,
        context=given.context,
    )
    latent_errors, noise_errors = prediction_errors(made, latents, schedule.sigma(timesteps))
    recycler.learn(latent_errors, noise_errors, index, clean=given.clean, chance=chance)
    return made.losses


@torch.no_grad()
def prediction_errors(
    made: TeacherForced, latents: Latents, sigma: Float[Tensor, "B F"]
) -> tuple[Latents, Latents]:
    """What a forward got wrong: the errors of latents and of noise that are kept, float32."""
    return (
        x0_from_velocity(made.noisy, made.predicted, sigma) - latents,
        made.missed.detach() * (1 - sigma)[:, None, :, None, None],
    )
