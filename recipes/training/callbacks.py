"""What a training run needs beside its steps: its progress, its record, its report."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from longlive_core.module_swap import receipts
from longlive_models.precision import in_short
from longlive_recipes.run_record import write_run_record
from longlive_recipes.training.checkpoint_layout import CLOCK, steps_in
from longlive_recipes.training.report import write_report
from longlive_recipes.training.run_folder import LOSSES
from longlive_recipes.training.schedule import Stopwatch, TrainingSchedule

_log = logging.getLogger(__name__)


class RunProgress(Callback):
    """Counts the steps and seconds of a run, and ends it when its schedule is over.

    Attributes:
        steps: how many the run has behind it.
        finished: the step that has just been taken was the last one.
    """

    def __init__(self, schedule: TrainingSchedule) -> None:
        self.schedule = schedule
        self.steps = 0
        self.finished = False
        self._stopwatch = Stopwatch()
        self._of_first_rank: float | None = None

    @property
    def state_key(self) -> str:
        return CLOCK

    @property
    def seconds(self) -> float:
        """Seconds of training so far; of several ranks, those of the first at its last step."""
        own = self._stopwatch.seconds
        return own if self._of_first_rank is None else self._of_first_rank

    @property
    def share(self) -> float:
        """The share of the run that is over, from 0 to 1."""
        return self.schedule.progress(self.steps, self.seconds)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stopwatch.start()
        self._check(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        self.steps = batch + 1
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if trainer.world_size > 1 and self.schedule.minutes is not None:
            self._of_first_rank = trainer.strategy.broadcast(self._stopwatch.seconds)
        self.finished = self.share >= 1
        if self.finished:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {**self._stopwatch.state_dict(), "steps": self.steps}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.steps = steps_in(checkpoint)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._stopwatch.load_state_dict({"seconds": state_dict["seconds"]})


class Record(Callback):
    """Writes ``run.json`` before the first step, so that a run that dies still says what it was.

    It says what quantized layers compute with, and so does the log: whether four or eight bits are
    emulated.

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
        if not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():  # products have the type of autocast
            backends = in_short(receipts(pl_module))
        for line in backends:
            _log.info("%s", line)
        write_run_record(
            self.folder, self.config, pl_module.device, resumed=self.resumed, backends=backends
        )


class Report(Callback):
    """Writes ``report.html`` when a run ends, and when it is interrupted after some steps.

    A report that cannot be written is said in the log: the run is not lost for it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        try:
            write_report(self.folder)
        except (OSError, ValueError) as error:
            _log.warning("no report of the run was written: %s", error)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if (self.folder / LOSSES).is_file():
            self.on_train_end(trainer, pl_module)
