"""A training step by what its backward pass computes again: gradients first, then time and memory.

Steps of one model take turns, so that what the machine does beside them falls on all alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, inf
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.wan.recomputation import Checkpointing
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import Rows, TrainingStepOptions
from longlive_recipes.bench.ranks import peak_gpu_memory, reset_peak_memory
from longlive_recipes.bench.shared_sizes import (
    TOLERANCE,
    Sizes,
    note_on_layers,
    relative_error,
    sizes_of_training,
)
from longlive_recipes.bench.shared_training import TrainingStep
from longlive_recipes.training.compilation import maybe_compile

TODAY = "blocks run again"
KEPT = "blocks run again, attention does not"
COMPILED = ", compiled"


@dataclass(frozen=True, kw_only=True)
class StepComparison:
    """What is compared: on "cpu" or "cuda", at which sizes, and whether compiled as well."""

    device: str
    sizes: Sizes
    compiled: bool

    @classmethod
    def of(cls, options: TrainingStepOptions) -> "StepComparison":
        """What the options ask for; sizes that they leave open are the device's."""
        sizes = sizes_of_training(options)
        return cls(device=options.device, sizes=sizes, compiled=options.compiled)

    def __post_init__(self) -> None:
        self.sizes.balanced(1)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to take the step."""

    checkpointing: Checkpointing
    forward: Callable[..., Tensor]


def measure(options: StepComparison, about: str) -> dict[str, Any]:
    """Check the loss and all gradients, then time, each way in turn.

    Raises:
        AssertionError: a loss or gradients differ by more than rounding.
    """
    device = torch.device(options.device)
    step = TrainingStep(SequenceGroup(), device, options.sizes, balanced=True)
    compiled = maybe_compile(step.model.forward, options.compiled)
    ways = {
        TODAY: _Way(checkpointing=True, forward=step.model),
        KEPT: _Way(checkpointing="attention", forward=step.model),
    }
    if options.compiled:
        ways[KEPT + COMPILED] = _Way(checkpointing="attention", forward=compiled)
    bound = TOLERANCE[options.device]
    rows = _differences(step, ways, bound)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.sizes.repeats):
        for name, way in ways.items():
            reset_peak_memory(device)
            times[name].append(_seconds(step, way))
            rows[name] |= peak_gpu_memory(step.group, device)
    today = median(times[TODAY])
    for name, row in rows.items():
        seconds = median(times[name])
        rows[name] = {"seconds": seconds, "times_faster": today / seconds, **row}
    return {
        "about": about + note_on_layers(options.sizes),
        "rows": rows,
        "checked": f"the loss and the gradients together differ by at most {bound:g}, relative",
    }


def _differences(step: TrainingStep, ways: dict[str, _Way], bound: float) -> Rows:
    """How far each way's loss and gradients are from today's; today's from those of another run."""
    want_loss, want = _values(step, ways[TODAY])
    rows: Rows = {}
    for name, way in ways.items():
        loss, found = _values(step, way)
        require(found.keys() == want.keys(), f"{name}: other parameters have a gradient")
        off = {key: _norm(found[key] - value) for key, value in want.items()}
        whole = {key: _norm(value) for key, value in want.items()}
        row = {
            "loss_difference": relative_error(loss, want_loss),
            "gradient_difference": hypot(*off.values()) / hypot(*whole.values()),
        }
        for what, value in row.items():
            require(value <= bound, f"{name}: {what} {value:.1e}, more than {bound:g}")
        row["largest_gradient_difference"] = max(
            off[key] / whole[key] for key in want if whole[key]
        )
        rows[name] = row
    return rows


def _values(step: TrainingStep, way: _Way) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and all gradients, where they were computed."""
    loss = _run(step, way)
    parameters = step.model.named_parameters()
    return loss, {name: p.grad for name, p in parameters if p.grad is not None}


def _norm(x: Tensor) -> float:
    """The length of a tensor; infinite where it holds no numbers."""
    length = float(torch.linalg.vector_norm(x, dtype=torch.float64))
    return length if length == length else inf


def _run(step: TrainingStep, way: _Way) -> Tensor:
    step.model.gradient_checkpointing, step.forward = way.checkpointing, way.forward
    return step.run()


def _seconds(step: TrainingStep, way: _Way) -> float:
    _finish(step.device)
    began = perf_counter()
    _run(step, way)
    _finish(step.device)
    return perf_counter() - began


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
