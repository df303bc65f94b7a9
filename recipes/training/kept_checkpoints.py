"""The checkpoints that a run keeps: the last one, and those of its best validations."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from longlive_models.documents import to_json
from longlive_recipes.generation.interrupts import Interrupts
from longlive_recipes.run_record import replace_file
from longlive_recipes.training.callbacks import RunProgress
from longlive_recipes.training.module import TrainingModule
from longlive_recipes.training.monitoring import Validation
from longlive_recipes.training.parallel import own_part
from longlive_recipes.training.run_folder import BEST, BEST_INDEX, best_file, read_best


class BestCheckpoints(Callback):
    """Keeps the checkpoints of the best validations by one of their numbers.

    Each is the last checkpoint of its step under a name of its own, linked rather than copied
    where the file system can. Those of steps that a resumed run takes again are dropped. Of two
    equal validations the earlier one is kept.

    Args:
        output: the run's folder.
        validation: what measures.
        metric: the number that counts, by its name in ``validation.csv``.
        mode: "min" or "max": what is best.
        count: how many are kept.

    Attributes:
        due: the step that was just taken belongs to the best so far.
    """

    def __init__(
        self, output: Path, validation: Validation, *, metric: str, mode: str, count: int
    ) -> None:
        self.output = output
        self.validation = validation
        self.metric = metric
        self.mode = mode
        self.count = count
        self.due = False
        self._kept: list[tuple[int, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:
        self._kept = [
            (step, value)
            for step, value in read_best(self.output)
            if step <= pl_module.steps_taken and best_file(self.output, step).exists()
        ]
        if trainer.is_global_zero and (self.output / BEST).exists():
            self._drop_others()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainingModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        self.due = False
        step = pl_module.steps_taken
        if self.validation.step == step and math.isfinite(value := self._measured()):
            self.due = step in [kept for kept, _ in self._ranked(step, value)]

    def keep(self, checkpoint: Path, step: int) -> None:
        """Keep ``checkpoint``, which has just been written after ``step`` steps, if it is due."""
        self._kept = self._ranked(step, self._measured())
        target = best_file(self.output, step)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(target)
        _link(checkpoint.resolve(), target)
        self._drop_others()

    def _measured(self) -> float:
        return self.validation.latest[self.metric]

    def _ranked(self, step: int, value: float) -> list[tuple[int, float]]:
        """The best of those that are kept and of one more, the best one first."""
        sign = 1 if self.mode == "min" else -1
        every = [*(one for one in self._kept if one[0] != step), (step, value)]
        return sorted(every, key=lambda one: (sign * one[1], one[0]))[: self.count]

    def _drop_others(self) -> None:
        """Write down which are kept, and remove the rest."""
        self._kept = self._kept[: self.count]
        kept = [{"step": step, "value": value} for step, value in self._kept]
        index = {"metric": self.metric, "mode": self.mode, "kept": kept}
        replace_file(
            self.output / BEST_INDEX, to_json(index, "the best checkpoints", indent=2) + "\n"
        )
        names = {best_file(self.output, step).name for step, _ in self._kept}
        for file in (self.output / BEST).glob("step_*.ckpt"):
            if file.name not in names:
                _remove(file)


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint, the newest: every few minutes, at the end, and when a run is to stop.

    It is written after a step, when all other callbacks have done their work for it, and replaces
    the one before in one move: whenever the process is killed, a whole one is there. One of the
    best validations so far is handed on to ``best``. The first
    Ctrl-C stops the run after the step in progress, with its checkpoint; the next one at once.
    """

    def __init__(
        self,
        path: Path,
        progress: RunProgress,
        *,
        minutes: float,
        best: "BestCheckpoints | None" = None,
    ) -> None:
        self.path = path
        self.progress = progress
        self.best = best
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
        is_best = self.best is not None and self.best.due
        due = asked or trainer.received_sigterm or time.monotonic() - self._saved >= self.seconds
        anyone = trainer.strategy.reduce_boolean_decision
        if not (self.progress.finished or anyone(due or is_best, all=False)):
            return
        self._save(trainer, pl_module)
        if is_best and self.best is not None and trainer.is_global_zero:
            self.best.keep(self.path, self.progress.steps)
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
                f"the weights after step {self.progress.steps} are no finite numbers "
                f"({lost or 'on another rank'}): nothing is learnt from here on, and the "
                f"checkpoint before is kept. Lower optimization.learning_rate, or resume from that "
                f"checkpoint into a fresh folder with another seed."
            )
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint of step {self.progress.steps} could not be written "
                f"({error.strerror})",
                str(self.path),
            ) from error
        self._saved = time.monotonic()


def _is_finite(parameter: Tensor) -> bool:
    return bool(own_part(parameter).detach().isfinite().all())


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _link(checkpoint: Path, target: Path) -> None:
    """Let ``target`` be ``checkpoint``, a file or a folder: by links, or else by copies."""
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, target, copy_function=_link_file)
    else:
        _link_file(str(checkpoint), str(target))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
