"""How fast a training run is, and how much memory it takes: measured, logged, told to the bar."""

import resource
import sys
import time

import torch
from pytorch_lightning import Callback, Trainer

from longlive_recipes.training.log_tables import Table, log_numbers
from longlive_recipes.training.module import TrainingModule

GIB = 1 << 30


class Speed(Callback):
    """Measures steps, and logs every few of them what one took.

    A row has the seconds of training so far, the mean seconds of a step since the row before,
    frames of video learnt from a second, and the most memory taken so far. Validation, samples and
    checkpoints are no part of a step. It has to stand behind the callback that reads the loss: a
    GPU has computed a step when its loss has been read.

    Attributes:
        latest: the newest row.
    """

    def __init__(self, table: Table, *, every: int) -> None:
        self.table = table
        self.every = every
        self.latest: dict[str, float] = {}
        self._began = 0.0
        self._steps, self._seconds, self._frames = 0, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        if trainer.is_global_zero:
            self.table.rewind(pl_module.steps_taken)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: TrainingModule, batch: int, batch_idx: int
    ) -> None:
        self._began = time.monotonic()
        self._frames += pl_module.frames_of_step()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: TrainingModule,
        outputs: object,
        batch: int,
        batch_idx: int,
    ) -> None:
        self._seconds += time.monotonic() - self._began
        self._steps += 1
        step = pl_module.steps_taken
        if step % self.every and step > 1 and not pl_module.run_progress.finished:
            return
        self.latest = {
            "seconds": pl_module.run_progress.seconds,
            "seconds_a_step": self._seconds / self._steps,
            "memory_gib": peak_memory(pl_module.device) / GIB,
        }
        if self._frames:
            self.latest["frames_a_second"] = self._frames / self._seconds
        self._steps, self._seconds, self._frames = 0, 0.0, 0
        if trainer.is_global_zero:
            self.table.add(step, self.latest)
        log_numbers(trainer, self.latest, step)


def peak_memory(device: torch.device) -> int:
    """The most bytes taken so far: of a GPU by tensors, of a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def told(latest: dict[str, float]) -> list[str]:
    """A row in words for the bar: how long a step takes, frames a second, memory."""
    if not latest:
        return []
    words = [_step_time(latest["seconds_a_step"])]
    if frames := latest.get("frames_a_second"):
        words.append(f"{frames:,.0f} frames/s" if frames >= 10 else f"{frames:.2g} frames/s")
    return [*words, f"{latest['memory_gib']:.2g} GiB"]


def _step_time(seconds: float) -> str:
    return f"{seconds:.2f} s a step" if seconds >= 1 else f"{1000 * seconds:.3g} ms a step"
