"""The base of training modules whose batches are made on the device, from the number of the step.

A batch is a pure function of (seed, step): the loader only counts. With the optimizer, the moving
average and the clock, that number is all a run needs to go on as if it had never stopped.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from longlive_core.checks import real, shown
from longlive_models.checkpoints.folder import fill, load_part
from longlive_models.checkpoints.nvfp4 import decode_state
from longlive_models.stream import Video
from longlive_recipes.configs.checked import real_field, whole_field
from longlive_recipes.training.callbacks import Clock, MovingAverage
from longlive_recipes.training.schedule import Budget

NOISE, CHOICES = 0, 1
"""Random numbers of a step: torch's global generator, and which clips are drawn."""

LARGEST_DECAY = math.nextafter(1.0, 0.0)
"""The largest number below 1: an average with it still takes something new in."""

MOST_SEED = (1 << 63) - 1000
"""The largest seed: torch takes 63 bits, and clips of other lengths have seeds a little above."""


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW and the average of its weights.

    Attributes:
        learning_rate: the peak: about how far a step moves each weight.
        betas: how much of the past is in the averages of gradients and of their squares.
        weight_decay: each step takes ``learning_rate * weight_decay`` of a weight away.
        max_grad_norm: gradients that are longer are cut to it; 0 cuts none.
        ema_decay: how much of the past is in the averaged weights.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        real_field(
            self,
            "learning_rate",
            above=0,
            at_most=1,
            why="a step moves each weight about so far, and weights are below 1. Use 1e-3, say.",
        )
        betas = self.betas
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ValueError(
                f"Optimization.betas are two numbers, got {shown(betas)}: of the average of "
                f"gradients and of that of their squares. Use (0.9, 0.95), say."
            )
        first, second = (
            real(
                f"Optimization.betas[{place}]",
                beta,
                at_least=0,
                at_most=LARGEST_DECAY,
                why="it is how much of the past is in an average, and at 1 nothing new would be. "
                "Use (0.9, 0.95), say.",
            )
            for place, beta in enumerate(betas)
        )
        object.__setattr__(self, "betas", (first, second))
        real_field(
            self,
            "weight_decay",
            at_least=0,
            at_most=1 / self.learning_rate,
            why="a step takes learning_rate * weight_decay of each weight away, and no more than "
            "all of it. Use 0.01, say.",
        )
        real_field(
            self,
            "max_grad_norm",
            at_least=0,
            why="longer gradients are cut to this length. Use 1.0, say, or 0 to cut none.",
        )
        real_field(
            self,
            "ema_decay",
            at_least=0,
            at_most=LARGEST_DECAY,
            why="it is how much of the past is in the averaged weights, and at 1 nothing is ever "
            "learnt. Use 0.999, say, or 0 for no average.",
        )


def check_seed(config: Any) -> None:
    """Raise ValueError for a config's ``seed`` that is none."""
    whole_field(
        config,
        "seed",
        at_least=0,
        at_most=MOST_SEED,
        why="it begins all random numbers of a run, which take 63 bits. Use 0, say.",
    )


class StepModule(LightningModule, ABC):
    """A training module whose batch is made on the device from the number of the step."""

    def __init__(self, budget: Budget, optimization: Optimization, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)  # the first weights are the seed's, too
        self.budget = budget
        self.optimization = optimization
        self.seed = seed
        self.clock = Clock(budget)
        self.average = MovingAverage(optimization.ema_decay)

    @abstractmethod
    def training_step(self, step: int) -> dict[str, Tensor]:
        """The loss of step ``step``, counted from 0, under "loss"; beside it what is logged."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Numbers to log, measured on the weights as they are: the averaged ones."""

    @abstractmethod
    def samples(self) -> dict[str, Video]:
        """A few videos to look at, by name, made with the weights as they are."""

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.budget.progress(self.global_step, self.clock.seconds)

    def choices(self, step: int) -> torch.Generator:
        """The generator that a step draws its clips with, on the CPU."""
        return torch.Generator().manual_seed(step_seed(self.seed, step, CHOICES))

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        assert batch == self.global_step, f"step {self.global_step} was given batch {batch}"
        torch.manual_seed(step_seed(self.seed, batch, NOISE))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block: averaged weights, evaluation mode, no gradients."""
        with self.average.applied(self), torch.no_grad():
            self.eval()
            try:
                yield
            finally:
                self.train()

    def configure_optimizers(self) -> dict[str, Any]:
        wanted = [p for p in self.parameters() if p.requires_grad]
        settings = self.optimization
        optimizer = torch.optim.AdamW(
            wanted,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.budget.rate(step, self.progress)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def train_dataloader(self) -> "Steps":
        return Steps(self.budget.steps)


class Steps:
    """Counts the steps of a run; what Lightning calls a loader, and one that can be resumed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._next = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        while self._next < self.count:
            self._next += 1
            yield self._next - 1

    def state_dict(self) -> dict[str, int]:
        """The step that comes next."""
        return {"next": self._next}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on with the step that came next."""
        self._next = state_dict["next"]


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed for each (run, step, stream), by NumPy's SeedSequence: the same on every machine.

    It hashes its words so that neighboring steps, and streams of one step, have nothing in
    common. No rank enters it: what ranks share must not depend on how many there are.
    """
    words = np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)
    return int(words[0])


def start_from(module: nn.Module, folder: Path) -> None:
    """Let a module begin with the weights of a part of a model, in its own precision.

    Packed weights are decoded.

    Raises:
        ValueError: the folder does not hold the weights of such a module.
    """
    _, tensors = load_part(folder)
    dtype = next(module.parameters()).dtype
    fill(module, decode_state(tensors, dtype), folder)


def maybe_compile(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """``function``, compiled if ``wanted``.

    Every shape is compiled by itself. Torch 2.11's analysis of tilings fails an assertion on
    broadcasts that these models have.
    """
    if not wanted:
        return function
    options: dict[str, Any] = {"triton.coalesce_tiling_analysis": False}
    return torch.compile(function, dynamic=False, options=options)
