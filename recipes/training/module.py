"""The base of training modules whose batches are made on the device, from the number of the step.

A batch is a pure function of (seed, step): the loader only counts. With the optimizers, the moving
averages and the seconds of training, that number is all a run needs to go on as if it had never
stopped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from longlive_core.names import few
from longlive_models.checkpoints.folder import fill, load_part
from longlive_models.checkpoints.nvfp4 import decode_state
from longlive_models.stream import Video
from longlive_models.unknown_keys import refuse_unknown_keys
from longlive_recipes.configs.checked import whole_field
from longlive_recipes.training.adamw import make_optimizer
from longlive_recipes.training.averages import MovingAverage
from longlive_recipes.training.callbacks import RunProgress
from longlive_recipes.training.checkpoint_layout import (
    LEFT_OUT,
    OPTIMIZERS,
    OptimizerState,
    averages_in,
    left_out,
    optimizer_values,
    optimizers_in,
)
from longlive_recipes.training.compilation import maybe_compile as maybe_compile
from longlive_recipes.training.optimizers import Optimization, OptimizationPlan, frozen
from longlive_recipes.training.schedule import LearningRateCurve, TrainingSchedule

NOISE, CHOICES, ERRORS = 0, 1, 2
"""A step's streams of random numbers: of torch's global generator, of the clips drawn, and of the
errors that are added to them."""

MOST_SEED = (1 << 63) - 1000
"""The largest seed: torch takes 63 bits, and clips of other lengths have seeds a little above."""


def check_seed(config: Any) -> None:
    """Raise ValueError for a config's ``seed`` that is none."""
    whole_field(
        config,
        "seed",
        at_least=0,
        at_most=MOST_SEED,
        why="it begins all random numbers of a run, which take 63 bits. Use 0, say.",
    )


class TrainingModule(LightningModule, ABC):
    """A training module whose batch is made on the device from the number of the step.

    With one optimizer, ``training_step`` returns the loss and Lightning does the rest. With
    several, or with ``OptimizationPlan(manual=True)``, ``training_step`` makes the updates itself::

        with self.update("critic") as backward:
            backward(loss)

    A step is the unit in which a run is stopped and resumed: gradients never outlive it, and all
    that a phase depends on is the step's number, ``progress`` and what the module holds.

    Args:
        schedule: how long the run is.
        optimization: its optimizers and averages.
        seed: of the first weights and of all that is drawn.

    Attributes:
        averages: the moving averages, by name.
        learning_rates: of each optimizer in the step that is being taken, by name.
        updated: the parameters that were updated in the step that is being taken, by name.
    """

    def __init__(
        self, schedule: TrainingSchedule, optimization: Optimization | OptimizationPlan, seed: int
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)  # the first weights are the seed's, too
        if isinstance(optimization, Optimization):
            optimization = optimization.plan()
        self.plan = optimization
        self.automatic_optimization = not self.plan.is_manual
        self.training_schedule = schedule
        self.seed = seed
        self.run_progress = RunProgress(schedule)
        self.averages = {
            name: MovingAverage(one.decay, name=name, parameters=one.parameters)
            for name, one in self.plan.averages.items()
        }
        self.learning_rates: dict[str, float] = {}
        self.updated: set[str] = set()
        self._trained: dict[str, list[str]] = {}
        self._updates = dict.fromkeys(self.plan.optimizers, 0)
        self._updating: str | None = None

    @abstractmethod
    def training_step(self, step: int) -> dict[str, Tensor]:
        """Learn from step ``step``, counted from 0; returns what is logged, scalars by name.

        With one optimizer the loss is under "loss". Names that are, or end with, "loss" have to be
        finite. A value that a step does not have is left out.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Numbers to log, measured on the weights as they are: the averaged ones."""

    @abstractmethod
    def samples(self) -> dict[str, Video]:
        """A few videos to look at, by name, made with the weights as they are."""

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of the numbers that ``validate`` gives; none where a module does not tell."""
        return ()

    def frames_of_step(self) -> int:
        """How many frames of video all ranks learn from in the step that comes; 0: not told."""
        return 0

    @property
    def progress(self) -> float:
        """The share of the run that is over, from 0 to 1."""
        return self.run_progress.share

    @property
    def steps_taken(self) -> int:
        """How many steps the run has behind it."""
        return self.run_progress.steps

    @property
    def max_grad_norm(self) -> float | None:
        """To which length Lightning cuts gradients; None where it cuts none."""
        if not self.automatic_optimization:
            return None
        [one] = self.plan.optimizers.values()
        return one.adamw.max_grad_norm or None

    def choices(self, step: int) -> torch.Generator:
        """The generator that a step draws its clips with, on the CPU."""
        return torch.Generator().manual_seed(step_seed(self.seed, step, CHOICES))

    @contextmanager
    def update(self, name: str) -> Iterator[Callable[[Tensor], None]]:
        """Let the optimizer ``name`` make one update, of the gradients that the block computes.

        The block is given ``backward``, to be called with a loss once or, to add up the gradients
        of several, more often. At its end gradients are cut to the optimizer's ``max_grad_norm``,
        its parameters are moved, and all gradients are dropped, those of other parameters too.

        Raises:
            ValueError: there is no such optimizer.
        """
        refuse_unknown_keys("the module's optimizers", [name], self.plan.optimizers)
        assert not self.automatic_optimization, "Lightning makes the updates: see OptimizationPlan"
        assert self._updating is None, f"{name!r} within the update of {self._updating!r}"
        self._updating = name
        self._drop_gradients()
        try:
            yield self._backward
        finally:
            self._updating = None
        optimizer = self._optimizers(plain=False)[name]
        length = self.plan.optimizers[name].adamw.max_grad_norm
        if length:
            self.clip_gradients(optimizer, gradient_clip_val=length, gradient_clip_algorithm="norm")
        optimizer.step()
        torch.clear_autocast_cache()  # it holds the weights of before, rounded
        self._drop_gradients()
        self._updates[name] += 1
        self.updated |= set(self._trained[name])

    def _backward(self, loss: Tensor) -> None:
        # training_step runs under autocast, and gradients of mixed precision are not its business
        with torch.autocast(loss.device.type, enabled=False):
            self.manual_backward(loss)

    def _drop_gradients(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    def _optimizers(self, *, plain: bool = True) -> dict[str, Any]:
        """The optimizers by name: torch's, or as Lightning wraps them."""
        found = self.optimizers(use_pl_optimizer=not plain)
        ordered = found if isinstance(found, list) else [found]
        return dict(zip(self.plan.optimizers, ordered, strict=True))

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        assert batch == self.steps_taken, f"step {self.steps_taken} was given batch {batch}"
        torch.manual_seed(step_seed(self.seed, batch, NOISE))
        optimizers = self._optimizers()
        self.updated = set()
        if self.automatic_optimization:
            self.updated = {name for names in self._trained.values() for name in names}
        else:
            for name, plan in self.plan.optimizers.items():
                curve = plan.rate or self.training_schedule.curve
                rate = plan.adamw.learning_rate * curve.rate(self._updates[name], self.progress)
                for group in optimizers[name].param_groups:
                    group["lr"] = rate
        self.learning_rates = {
            name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()
        }

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block: averaged weights, evaluation mode, no gradients."""
        with ExitStack() as stack:
            for average in self._evaluated():
                stack.enter_context(average.applied(self))
            stack.enter_context(torch.no_grad())
            self.eval()
            try:
                yield
            finally:
                self.train()

    def copy_averages(self) -> None:
        """Replace weights by the averages of them that are evaluated."""
        for average in self._evaluated():
            average.copy_to(self)

    def _evaluated(self) -> list[MovingAverage]:
        plans = self.plan.averages
        return [average for name, average in self.averages.items() if plans[name].evaluated]

    def configure_optimizers(self) -> Any:
        parameters = dict(self.named_parameters())
        self._trained = self.plan.trained(self)
        self.plan.averaged(self)  # refuses what cannot be averaged before anything is learnt
        optimizers = {
            name: make_optimizer(
                plan.adamw,
                {one: parameters[one] for one in self._trained[name]},
                # float16's gradients are scaled, and those Lightning cannot cut for it
                fused=self.device.type == "cuda" and self.trainer.precision != "16-mixed",
            )
            for name, plan in self.plan.optimizers.items()
        }
        if not self.automatic_optimization:
            return list(optimizers.values())
        [(name, optimizer)] = optimizers.items()
        curve = self.plan.optimizers[name].rate or self.training_schedule.curve
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self._rate(curve, step)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _rate(self, curve: LearningRateCurve, step: int) -> float:
        return curve.rate(step, self.training_schedule.progress(step, self.run_progress.seconds))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = {
            name: OptimizerState(
                updates=self.steps_taken if self.automatic_optimization else self._updates[name],
                parameters=tuple(self._trained[name]),
            )
            for name in self.plan.optimizers
        }
        checkpoint[OPTIMIZERS] = optimizer_values(states)
        if not self.plan.store_frozen:
            checkpoint[LEFT_OUT] = frozen(self)
            for name in checkpoint[LEFT_OUT]:
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_parts(self.plan, checkpoint)
        if "state_dict" in checkpoint:  # of sharded ones the strategy has loaded it
            own = self.state_dict()
            checkpoint["state_dict"] |= {name: own[name] for name in left_out(checkpoint)}
        trained = self.plan.trained(self)
        for name, state in optimizers_in(checkpoint).items():
            if state.parameters is not None and list(state.parameters) != trained[name]:
                others = sorted(set(state.parameters) ^ set(trained[name]))
                raise ValueError(
                    f"optimizer {name!r} of the checkpoint trains other parameters than the run's "
                    f"({few(others) or 'in another order'}): it is of another config. Go on with "
                    f"the config that it was begun with."
                )
            self._updates[name] = state.updates

    def train_dataloader(self) -> "StepNumbers":
        return StepNumbers(self.training_schedule.steps)


def check_same_parts(plan: OptimizationPlan, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint has other optimizers or averages than a plan."""
    held = {
        "optimizers": (list(optimizers_in(checkpoint)), list(plan.optimizers)),
        "averages": (sorted(averages_in(checkpoint)), sorted(plan.averages)),
    }
    for kind, (theirs, own) in held.items():
        if theirs != own:
            raise ValueError(
                f"the checkpoint has the {kind} {', '.join(theirs) or 'none'}, and the run has "
                f"{', '.join(own) or 'none'}: it is a checkpoint of another recipe. Go on with the "
                f"one that wrote it."
            )


class StepNumbers:
    """The numbers of a run's steps: what Lightning calls a loader, and one that can be resumed."""

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
    """Load the weights of a part of a model into a module, in the module's own precision.

    Packed weights are decoded.

    Raises:
        ValueError: the folder does not hold the weights of such a module.
    """
    _, tensors = load_part(folder)
    dtype = next(module.parameters()).dtype
    fill(module, decode_state(tensors, dtype), folder)
