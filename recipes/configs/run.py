"""The config of a run: where it is written, what it runs on, and how it is watched."""

from dataclasses import dataclass
from typing import Literal

from longlive_recipes.configs.checked import (
    YEAR,
    choice_field,
    real_field,
    switch_field,
    text_field,
    whole_field,
)
from longlive_recipes.training.schedule import MOST_STEPS

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
FLOAT32_MATMUL = ("highest", "high", "medium")


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
