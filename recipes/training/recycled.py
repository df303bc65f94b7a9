"""The model's own errors, kept over a run and added to its batches, alike on every rank."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives.error_recycling import (
    ErrorRecycler,
    ErrorRecycling,
    prediction_errors,
)
from longlive_models.objectives.teacher_forcing import TeacherForced
from longlive_recipes.training.ar_batch import Batch, Drawn, Own, over_frames
from longlive_recipes.training.module import ERRORS, step_seed

KEY = "recycled_errors"
"""Where a checkpoint has the errors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recycled:
    """What a step needs to keep its own errors: whether it had none added, and what draws."""

    clean: bool
    chance: random.Random


class RunErrors:
    """The banks of a run.

    Errors of all ranks are put together before they are kept, and what is added is drawn for the
    whole batch: a run over several ranks has the numbers of one.

    Args:
        config: how often errors are added, and how they are kept.
        frames_per_block: of the model.
        schedule: of the noise levels.
        seed: of the run.
        folder: where errors lie that are kept on a disk; their files go with the process.
    """

    def __init__(
        self,
        config: ErrorRecycling,
        *,
        frames_per_block: int,
        schedule: FlowSchedule,
        seed: int,
        folder: Path,
    ) -> None:
        self.recycler = ErrorRecycler(config, frames_per_block=frames_per_block, folder=folder)
        self.schedule, self.seed = schedule, seed

    def add(self, batch: Batch, drawn: Drawn, own: Own, step: int) -> tuple[Batch, Recycled]:
        """A batch with errors of earlier steps in it; a given first frame gets none."""
        chance = random.Random(step_seed(self.seed, step, ERRORS))
        clips, frames = drawn.timesteps.shape
        shape = (clips, batch.latents.shape[1], frames, *batch.latents.shape[3:])
        none = torch.zeros(shape, dtype=torch.float32, device="cpu")
        index = self.schedule.index(drawn.timesteps)
        made = self.recycler.corrupt(none, none, index, step=step, chance=chance)
        kept = None if batch.free is None else over_frames(batch.free)

        def added(to: Tensor, errors: Tensor) -> Tensor:
            if errors is none:
                return to
            part = own.frames(errors, 2)
            return to + (part if kept is None else part * kept)

        changed = replace(
            batch,
            noise=added(batch.noise, made.noise),
            context=added(batch.context, made.context),
            start=added(batch.latents, made.start),
        )
        return changed, Recycled(clean=made.clean, chance=chance)

    @torch.no_grad()
    def learn(
        self,
        parts: Sequence[tuple[Batch, TeacherForced]],
        drawn: Drawn,
        own: Own,
        recycled: Recycled,
    ) -> None:
        """Keep the errors of a step, whose batch may have been taken in parts."""
        latent: list[Tensor] = []
        noise: list[Tensor] = []
        for batch, made in parts:
            sigma = self.schedule.sigma(batch.timesteps)
            free = 1.0 if batch.free is None else over_frames(batch.free)
            of_latents, of_noise = prediction_errors(made, batch.latents, sigma)
            latent.append(of_latents * free)
            noise.append(of_noise * free)
        dtype = self.recycler.latent_errors.dtype  # rounded before they travel to the CPU
        self.recycler.learn(
            own.everyone(torch.cat(latent)).to(dtype).cpu(),
            own.everyone(torch.cat(noise)).to(dtype).cpu(),
            self.schedule.index(drawn.timesteps),
            clean=recycled.clean,
            chance=recycled.chance,
            counted=drawn.real,
        )

    def state_dict(self) -> dict[str, Any]:
        """All errors, for a checkpoint."""
        return self.recycler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the errors of a checkpoint. Raises ValueError if they were kept otherwise."""
        self.recycler.load_state_dict(state)


def bank_bytes(config: ErrorRecycling, block_numbers: int) -> int:
    """The most room of a run's errors, in bfloat16, with blocks of so many numbers."""
    return 2 * 2 * config.bank.most_entries * block_numbers if config.recycles else 0
