"""The config of a run: where it is written, what it runs on, and how it is watched."""

from dataclasses import dataclass
from typing import Literal

from longlive_core.checks import shown
from longlive_recipes.configs.checked import (
    YEAR,
    choice_field,
    parts_field,
    real_field,
    switch_field,
    text_field,
    whole_field,
)
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.training.schedule import MOST_STEPS

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
FLOAT32_MATMUL = ("highest", "high", "medium")
LOGGERS = ("wandb", "mlflow")
MOST_BEST = 1000


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run goes and how it is watched; nothing here changes what is learned.

    Attributes:
        output: the folder of the run.
        accelerator, precision: as Lightning's Trainer names them; one of ``ACCELERATORS`` and one
            of ``PRECISIONS``.
        compile: compile the model: faster after a minute or two of waiting.
        benchmark: let cuDNN try its convolutions: faster, not bit-reproducible.
        float32_matmul: how a GPU multiplies the float32 matrices that autocast leaves.
        log_every, validate_every: in steps.
        samples_every: write sample videos at every so many validations; 0 writes none.
        checkpoint_minutes: a run that is killed loses no more than this.
        best_k: keep so many checkpoints of the best validations, beside the last one.
        best_metric: the number that says which are best, by its name in ``validation.csv``.
        best_mode: whether the smallest ("min") or the largest ("max") is best.
        loggers: where the numbers go beside TensorBoard and CSV, some of ``LOGGERS``.
    """

    output: str
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    compile: bool = False
    benchmark: bool = False
    float32_matmul: Literal["highest", "high", "medium"] = "high"
    log_every: int = 20
    validate_every: int = 1000
    samples_every: int = 1
    checkpoint_minutes: float = 1.0
    progress_bar: bool = True
    best_k: int = 0
    best_metric: str | None = None
    best_mode: Literal["min", "max"] = "min"
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        text_field(self, "output")
        choice_field(
            self, "accelerator", ACCELERATORS, why="it is what the run computes on. Use auto."
        )
        choice_field(
            self,
            "precision",
            PRECISIONS,
            why="weights stay float32, and the products of a mixed precision are half as wide. "
            "Use bf16-mixed, or 32-true on a CPU.",
        )
        choice_field(
            self,
            "float32_matmul",
            FLOAT32_MATMUL,
            why="it is how a GPU multiplies float32 matrices. Use high.",
        )
        switch_field(self, "compile", "benchmark", "progress_bar")
        for name, least in (("log_every", 1), ("validate_every", 1), ("samples_every", 0)):
            whole_field(
                self,
                name,
                at_least=least,
                at_most=MOST_STEPS,
                why="a run logs and validates every 1 or more steps, and writes samples at every "
                "so many validations; samples_every=0 writes none.",
            )
        real_field(
            self,
            "checkpoint_minutes",
            at_least=0,
            at_most=YEAR,
            why="a run that is killed loses no more than this. Use 1, say; 0 keeps every step.",
        )
        self._check_best()
        parts_field(self, "loggers", str)
        for logger in self.loggers:
            if logger not in LOGGERS or self.loggers.count(logger) > 1:
                raise ValueError(
                    f"Run.loggers are some of {', '.join(LOGGERS)}, each once, got "
                    f"{shown(self.loggers)}: TensorBoard and CSV are always written."
                )

    def _check_best(self) -> None:
        whole_field(
            self,
            "best_k",
            at_least=0,
            at_most=MOST_BEST,
            why="so many checkpoints of the best validations are kept, each as large as the last "
            "one. Use 3, say, or 0 to keep none.",
        )
        text_field(self, "best_metric", optional=True)
        choice_field(
            self,
            "best_mode",
            ("min", "max"),
            why="the smallest or the largest number is the best. Use min for a loss.",
        )
        if (self.best_k > 0) != (self.best_metric is not None):
            raise ValueError(
                f"Run.best_k={self.best_k} and Run.best_metric={shown(self.best_metric)}: the best "
                f"checkpoints are kept by a number of the validation, so both are set or neither. "
                f"Set best_metric=NAME, or best_k=0 without it."
            )
        if self.best_metric is None:
            refuse_idle(
                self,
                "best_mode",
                Run.best_mode,
                because="no number says which checkpoints are best",
                way_out="Set best_metric and best_k",
            )
