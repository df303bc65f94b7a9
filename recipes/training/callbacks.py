"""What a training run needs beside its steps: the moving average, the clock, the checkpoint."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from longlive_recipes.generation.interrupts import Interrupts
from longlive_recipes.run_record import write_run_record
from longlive_recipes.training.parallel import own_part
from longlive_recipes.training.schedule import Budget, Stopwatch


class MovingAverage(Callback):
    """An exponential moving average of the trained parameters, on their own device.

    Lightning's own callback deep-copies the whole module and does not work with sharded
    parameters; this one keeps one tensor a parameter, in float32, shards included. Step ``n``
    weighs the past with ``min(decay, (1 + n) / (10 + n))``, so that the start is soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:  # false for NaN
            raise ValueError(
                f"a moving average needs 0 <= decay < 1, got {decay}: at 1 nothing is ever "
                f"learnt. Use 0.999, say, or 0 for no average."
            )
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._step:  # else gradients are being accumulated
            self.update(pl_module, trainer.global_step)

    def start(self, module: nn.Module) -> None:
        """Begin with the module's weights, or go on with those of a checkpoint."""
        for name, parameter in _trained(module).items():
            kept = self._average.get(name, parameter)
            self._average[name] = kept.detach().to(parameter.device, torch.float32, copy=True)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after step ``step``, counted from 1."""
        self._step = step
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = _trained(module)
        averages = [self._average[name] for name in trained]
        values = [parameter.detach().float() for parameter in trained.values()]
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Within the block, ``module`` holds the averaged weights."""
        trained = _trained(module)
        kept = {name: parameter.detach().clone() for name, parameter in trained.items()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(kept[name])

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the module's weights by the averaged ones."""
        for name, parameter in _trained(module).items():
            parameter.copy_(self._average[name])

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "step": self._step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._average = dict(state_dict["average"])
        self._step = state_dict["step"]


class Clock(Callback):
    """Counts the seconds of a run and ends it when its budget is used up.

    Attributes:
        finished: the budget is used up: the step that has just been taken was the last one.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.watch = Stopwatch()
        self.finished = False
        self._agreed: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far; of several ranks, those of the first at its last step."""
        return self.watch.seconds if self._agreed is None else self._agreed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.start()
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if trainer.world_size > 1 and self.budget.minutes is not None:
            self._agreed = trainer.strategy.broadcast(self.watch.seconds)
        self.finished = self.budget.progress(trainer.global_step, self.seconds) >= 1
        if self.finished:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.watch.load_state_dict(dict(state_dict))


class Record(Callback):
    """Writes ``run.json`` before the first step, so that a run that dies still says what it was.

    Args:
        resumed: from which checkpoint and step; None for a run that begins here.
    """

    def __init__(
        self, folder: Path, config: Any, *, resumed: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self.resumed = resumed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_run_record(self.folder, self.config, pl_module.device, resumed=self.resumed)


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint, the newest: every few minutes, at the end, and when a run is to stop.

    It is written after a step, when all other callbacks have done their work for it, and replaces
    the one before in one move: whenever the process is killed, a whole one is there. The first
    Ctrl-C stops the run after the step in progress, with its checkpoint; the next one at once.
    """

    def __init__(self, path: Path, clock: Clock, *, minutes: float) -> None:
        self.path = path
        self.clock = clock
        self.seconds = 60 * minutes
        self._saved = time.monotonic()
        self._interrupts = Interrupts(wait=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = time.monotonic()
        self._interrupts = Interrupts(wait=True)
        self._interrupts.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = bool(self._interrupts.asked)
        due = asked or trainer.received_sigterm or time.monotonic() - self._saved >= self.seconds
        anyone = trainer.strategy.reduce_boolean_decision
        if not (self.clock.finished or anyone(due, all=False)):
            return
        self._save(trainer, pl_module)
        if anyone(asked, all=False):
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interrupts.__exit__(None, None, None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._interrupts.__exit__(None, None, None)

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        lost = next((name for name, p in _trained(pl_module).items() if not _is_finite(p)), None)
        if trainer.strategy.reduce_boolean_decision(lost is not None, all=False):
            raise FloatingPointError(
                f"the weights after step {trainer.global_step} are no finite numbers "
                f"({lost or 'on another rank'}): nothing is learnt from here on, and the "
                f"checkpoint before is kept. Lower optimization.learning_rate, or resume from that "
                f"checkpoint into a fresh folder with another seed."
            )
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint of step {trainer.global_step} could not be written "
                f"({error.strerror})",
                str(self.path),
            ) from error
        self._saved = time.monotonic()


def _is_finite(parameter: Tensor) -> bool:
    return bool(own_part(parameter).detach().isfinite().all())


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
