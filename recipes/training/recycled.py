"""The model's own errors, kept over a run and added to its batches, alike on every rank."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives.chosen_errors import Grid, put_together
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Missed:
    """What a step got wrong, on its way to the CPU, and how it is kept there."""

    latent: "_Arrival"
    noise: "_Arrival | None"
    index: Tensor
    counted: Tensor | None
    recycled: Recycled


class RunErrors:
    """The banks of a run.

    Errors of all ranks are put together before they are kept, and what is added is drawn for the
    whole batch: a run over several ranks has the numbers of one.

    No step waits for its own errors: they travel to the CPU while it goes on, and enter the banks
    in ``settle``, at the latest when the next step draws from them. Called at the end of a step, it
    does so while a GPU is still busy with what was launched.

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
        self._recycler = ErrorRecycler(config, frames_per_block=frames_per_block, folder=folder)
        self._missed: _Missed | None = None
        self.schedule, self.seed = schedule, seed

    @property
    def recycler(self) -> ErrorRecycler:
        """The banks, with the errors of all steps so far."""
        self.settle()
        return self._recycler

    def settle(self) -> None:
        """Keep the errors that the last step sent, if they are not kept yet."""
        missed, self._missed = self._missed, None
        if missed is not None:
            self._recycler.learn(
                missed.latent.wait(),
                None if missed.noise is None else missed.noise.wait(),
                missed.index,
                clean=missed.recycled.clean,
                chance=missed.recycled.chance,
                counted=missed.counted,
            )

    def add(self, batch: Batch, drawn: Drawn, own: Own, step: int) -> tuple[Batch, Recycled]:
        """A batch with errors of earlier steps in it; a given first frame gets none."""
        chance = random.Random(step_seed(self.seed, step, ERRORS))
        index = self.schedule.index(drawn.timesteps)
        chosen = self.recycler.choose(index, step=step, chance=chance)
        kept = None if batch.free is None else over_frames(batch.free)

        def added(to: Tensor, grid: Grid | None) -> Tensor:
            errors = None if grid is None else put_together(own.blocks(grid), to.device)
            if errors is None:
                return to
            return to + (errors if kept is None else errors * kept)

        changed = replace(
            batch,
            noise=added(batch.noise, chosen.noise),
            context=added(batch.context, chosen.context),
            start=added(batch.latents, chosen.start),
        )
        return changed, Recycled(clean=chosen.clean, chance=chance)

    @torch.no_grad()
    def learn(
        self,
        parts: Sequence[tuple[Batch, TeacherForced]],
        drawn: Drawn,
        own: Own,
        recycled: Recycled,
    ) -> None:
        """Keep the errors of a step, whose batch may have been taken in parts."""
        assert self._missed is None, "the errors of a step are kept before the next one draws"
        latent: list[Tensor] = []
        noise: list[Tensor] = []
        for batch, made in parts:
            sigma = self.schedule.sigma(batch.timesteps)
            free = 1.0 if batch.free is None else over_frames(batch.free)
            of_latents, of_noise = prediction_errors(made, batch.latents, sigma)
            latent.append(of_latents * free)
            noise.append(of_noise * free)
        dtype = self._recycler.latent_errors.dtype  # rounded before they travel to the CPU

        def sent(errors: list[Tensor]) -> _Arrival:
            return _Arrival(own.everyone(torch.cat(errors)).to(dtype))

        self._missed = _Missed(
            latent=sent(latent),
            noise=sent(noise) if self._recycler.config.keeps_noise else None,
            index=self.schedule.index(drawn.timesteps),
            counted=drawn.real,
            recycled=recycled,
        )

    def state_dict(self) -> dict[str, Any]:
        """All errors, for a checkpoint."""
        return self.recycler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the errors of a checkpoint. Raises ValueError if they were kept otherwise."""
        self._missed = None
        self._recycler.load_state_dict(state)


def bank_bytes(config: ErrorRecycling, block_numbers: int) -> int:
    """The most room of a run's errors, in bfloat16, with blocks of so many numbers."""
    banks = (1 + config.keeps_noise) * config.recycles
    return 2 * banks * config.bank.most_entries * block_numbers


class _Arrival:
    """A tensor's copy to the CPU: started here, and there once it was waited for.

    From a GPU it goes through page-locked memory, on the current stream.
    """

    def __init__(self, sent: Tensor) -> None:
        self._landed: torch.cuda.Event | None = None
        if not sent.is_cuda:
            self._here = sent.to("cpu")
            return
        self._here = torch.empty(sent.shape, dtype=sent.dtype, device="cpu", pin_memory=True)
        self._here.copy_(sent, non_blocking=True)
        self._landed = torch.cuda.Event()
        self._landed.record(torch.cuda.current_stream(sent.device))

    def wait(self) -> Tensor:
        if self._landed is not None:
            self._landed.synchronize()
        return self._here
