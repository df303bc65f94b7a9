"""How a training run is watched: tables of numbers, TensorBoard, sample videos, a progress bar.

Everything is written when the step that it belongs to is over and before the next checkpoint, so
that a run which goes on from a checkpoint goes on with its logs, too.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from longlive_models.stream import Video
from longlive_recipes.training.log_tables import Table, log_numbers
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.run_folder import SHEET
from longlive_recipes.training.speed import Speed, told


def is_loss(name: str) -> bool:
    """Whether a logged value is a loss: its name is, or ends with, ``loss``."""
    return name.endswith("loss")


class LossLog(Callback):
    """Logs what ``training_step`` returns, every few steps; stops a run whose loss is no number.

    A row has the newest value of each name since the row before, so that a loss which few steps
    have is not missed. The learning rate of a module with one optimizer is in the column
    ``learning_rate``, those of several in ``learning_rate_NAME``.

    Attributes:
        latest: the newest row.
    """

    def __init__(self, table: Table, *, every: int) -> None:
        self.table = table
        self.every = every
        self.latest: dict[str, float] = {}
        self._newest: dict[str, Any] = {}  # since the row before: scalar tensors, or numbers
        self._outlive_steps = False

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._outlive_steps = not pl_module.automatic_optimization
        if trainer.is_global_zero:
            self.table.rewind(pl_module.steps_taken)

    def state_dict(self) -> dict[str, Any]:
        kept = self._newest if self._outlive_steps else {}
        return {"newest": {name: float(value) for name, value in kept.items()}} if kept else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._newest = dict(state_dict["newest"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        step = pl_module.steps_taken
        self._newest |= {name: value.detach() for name, value in outputs.items()}
        if step % self.every and step > 1 and not pl_module.run_progress.finished:
            return
        self.latest = {name: float(value) for name, value in self._newest.items()}
        self._newest = {}
        rates = pl_module.learning_rates
        for name, rate in rates.items():
            self.latest["learning_rate" if len(rates) == 1 else f"learning_rate_{name}"] = rate
        for name, value in self.latest.items():
            if is_loss(name) and not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name.replace('_', ' ')} of step {step} is {value}: nothing is learnt "
                    f"from here on. Lower optimization.learning_rate, or resume from the last "
                    f"checkpoint with another seed."
                )
        if trainer.is_global_zero:
            self.table.add(step, self.latest)
        log_numbers(trainer, self.latest, step)


class Validation(Callback):
    """Every few steps and at the end, measures the averaged weights and logs the numbers.

    Attributes:
        latest: the newest numbers.
        step: how many steps the run had behind it when they were measured.
    """

    def __init__(self, table: Table, *, every: int) -> None:
        self.table = table
        self.every = every
        self.latest: dict[str, float] = {}
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if trainer.is_global_zero:
            self.table.rewind(pl_module.steps_taken)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        step = pl_module.steps_taken
        if step % self.every and not pl_module.run_progress.finished:
            return
        with pl_module.averaged(), trainer.precision_plugin.forward_context():
            self.latest, self.step = pl_module.validate(), step
        if trainer.is_global_zero:
            self.table.add(step, self.latest)
        log_numbers(trainer, self.latest, step)


class SampleVideos(Callback):
    """Every few steps and at the end, writes videos made with the averaged weights.

    They lie in ``<folder>/step_<number>`` as mp4, beside a sheet with six frames of each, which
    TensorBoard shows, too.
    """

    COLUMNS = 6

    def __init__(self, folder: Path, *, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        step = pl_module.steps_taken
        if step % self.every and not pl_module.run_progress.finished:
            return
        with pl_module.averaged():
            videos = pl_module.samples()
        if not videos or not trainer.is_global_zero:
            return
        sheet = write_samples(self.folder / f"step_{step:07d}", videos, columns=self.COLUMNS)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("samples", sheet, step, dataformats="HWC")


class ProgressBar(Callback):
    """A bar on standard error: how much of the run is over, losses, speed, time left, memory.

    Where no terminal is, a line is written for every validation instead.
    """

    def __init__(
        self,
        losses: LossLog,
        speed: Speed,
        validation: Validation,
        console: Console | None = None,
    ) -> None:
        self.losses = losses
        self.speed = speed
        self.validation = validation
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("the first step", total=1.0)
        self._told: dict[str, float] = {}
        self._start = (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._start = (time.monotonic(), pl_module.progress)
        if trainer.is_global_zero:
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        began, progress = self._start
        now, seconds = pl_module.progress, time.monotonic() - began
        left = seconds * (1 - now) / (now - progress) if now > progress else 0.0
        logged = self.losses.latest
        losses = [
            f"{name.replace('_', ' ')} {logged[name]:.4g}" for name in filter(is_loss, logged)
        ]
        speed = [*told(self.speed.latest), f"{clock_time(left)} left"]
        text = ", ".join([f"step {pl_module.steps_taken}", *losses, *speed])
        self._bar.update(self._task, completed=now, description=text)
        if trainer.is_global_zero and self.validation.latest != self._told:
            self._told = self.validation.latest
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in self._told.items())
            self.console.print(f"{now:4.0%} {text}: {numbers}", highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._bar.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: TrainingModule, exception: BaseException
    ) -> None:
        self._bar.stop()


def write_samples(folder: Path, videos: Mapping[str, Video], *, columns: int) -> torch.Tensor:
    """Write each video as mp4, and ``sheet.png`` with a row of frames of each.

    Returns:
        the sheet, uint8 [height, width, 3].
    """
    from longlive_models.video.files import (  # PyAV, needed here
        VideoWriter,
        contact_sheet,
        write_png,
    )

    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, video in videos.items():
        path, (height, width) = folder / f"{name}.mp4", video.frames.shape[1:3]
        with VideoWriter(path, fps=video.fps, size=(height, width), overwrite=True) as writer:
            writer.write(video.frames)
        places = (
            torch.linspace(0, len(video.frames) - 1, columns, dtype=torch.float32, device="cpu")
            .round()
            .long()
        )
        shown.append(video.frames[places])
    sheet = contact_sheet(torch.cat(shown), columns=columns)
    write_png(folder / SHEET, sheet)
    return sheet


def clock_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
