"""What rides along with a training run: the moving average, the clock, the record."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from longlive_recipes.budget import Budget, Stopwatch
from longlive_recipes.run_record import write_run_record


class MovingAverage(Callback):
    """An exponential moving average of the trained parameters, on their own device.

    Lightning's own callback deep-copies the whole module and does not work with sharded
    parameters; this one keeps one tensor a parameter, in float32, shards included.
    Validation runs with the averaged weights.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"a moving average needs 0 <= decay < 1, got {decay}.")
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in _trained(pl_module).items():
            kept = self._average.get(name, parameter)
            self._average[name] = kept.detach().to(parameter.device, torch.float32, copy=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._step) / (10 + self._step))  # short at first
        trained = _trained(pl_module)
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

    def copy_to(self, module: nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in _trained(module).items():
                parameter.copy_(self._average[name])

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "step": self._step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._average = dict(state_dict["average"])
        self._step = state_dict["step"]


class Clock(Callback):
    """Counts the seconds of a run and ends it when its budget is used up."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.watch = Stopwatch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.budget.progress(trainer.global_step, self.watch.seconds) >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.watch.load_state_dict(dict(state_dict))


class Record(Callback):
    """Writes ``run.json`` before the first step, so that a run that dies still says what it was."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_run_record(self.folder, self.config, pl_module.device)


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}
