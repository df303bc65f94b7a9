"""What the training recipes share: one module base, one way to build the trainer.

A batch is a pure function of (seed, step): the loader only counts steps. That is what lets a run
that was killed continue with the batches and the noise it would have had.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from longlive_recipes.budget import Budget
from longlive_recipes.callbacks import Clock, MovingAverage, Record


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run goes and how it is watched; nothing here changes what is learnt."""

    output: str
    accelerator: str = "auto"
    precision: str = "bf16-mixed"
    compile: bool = False
    benchmark: bool = False  # let cuDNN try its convolutions: faster, not bit-reproducible
    log_every: int = 20
    validate_every: int = 1000
    checkpoint_minutes: float = 1.0
    progress_bar: bool = True


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW and the average of its weights."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999


class StepModule(LightningModule):
    """A training module whose batch is made on the device from the number of the step."""

    def __init__(self, budget: Budget, optimisation: Optimisation, seed: int) -> None:
        super().__init__()
        self.budget = budget
        self.optimisation = optimisation
        self.seed = seed
        self.clock = Clock(budget)
        self.average = MovingAverage(optimisation.ema_decay)

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.budget.progress(self.global_step, self.clock.watch.seconds)

    def step_seed(self, step: int, stream: int = 0) -> int:
        """A seed of its own for each (run, step, rank, stream)."""
        return hash((self.seed, step, self.global_rank, stream)) % 2**63

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.step_seed(self.global_step))

    def configure_optimizers(self) -> dict[str, Any]:
        wanted = [p for p in self.parameters() if p.requires_grad]
        settings = self.optimisation
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

    def train_dataloader(self) -> DataLoader[int]:
        return _counter(self.budget.steps)

    def val_dataloader(self) -> DataLoader[int]:
        return _counter(1)


def maybe_compile(function: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """``function``, compiled if the run says so.

    Every shape is compiled by itself. Torch 2.11's analysis of tilings fails an assertion on
    broadcasts that these models have.
    """
    if not run.compile:
        return function
    options: dict[str, Any] = {"triton.coalesce_tiling_analysis": False}
    return torch.compile(function, dynamic=False, options=options)


def fit(module: StepModule, run: Run, config: Any, *, resume: str | None = None) -> Trainer:
    """Train ``module``; its averaged weights are in it afterwards.

    Args:
        resume: a checkpoint file of an earlier run of the same config, or None.
    """
    output = Path(run.output)
    trainer = build_trainer(module, run, config)
    trainer.fit(module, ckpt_path=resume)
    trainer.save_checkpoint(output / "checkpoints" / "last.ckpt")
    module.average.copy_to(module)
    return trainer


def build_trainer(module: StepModule, run: Run, config: Any) -> Trainer:
    output = Path(run.output)
    loggers: list[Logger] = [
        CSVLogger(output, name="csv", version=""),
        TensorBoardLogger(str(output), name="tensorboard", version=""),
    ]
    callbacks: list[Callback] = [
        Record(output, config),
        module.clock,
        module.average,
        LearningRateMonitor(logging_interval="step"),
        ModelCheckpoint(
            dirpath=output / "checkpoints",
            filename="last",
            enable_version_counter=False,
            train_time_interval=timedelta(minutes=run.checkpoint_minutes),
        ),
    ]
    if run.progress_bar:
        callbacks.append(RichProgressBar())
    return Trainer(
        accelerator=run.accelerator,
        devices=1,
        precision=run.precision,  # type: ignore[arg-type]
        max_steps=module.budget.steps,
        gradient_clip_val=module.optimisation.max_grad_norm,
        logger=loggers,
        callbacks=callbacks,
        log_every_n_steps=run.log_every,
        val_check_interval=min(run.validate_every, module.budget.steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=run.progress_bar,
        enable_model_summary=False,
        benchmark=run.benchmark,
        default_root_dir=output,
    )


def _counter(count: int) -> DataLoader[int]:
    return DataLoader(range(count), batch_size=None)  # type: ignore[arg-type]
