"""A training step by what its backward pass computes again and in which numbers products are.

Gradients first, then time and memory. Steps of one model take turns, so that what the machine does
beside them falls on all alike.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import hypot, inf
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from longlive_core.backends import Receipt
from longlive_core.float8 import Float8TrainingConfig, convert_linears
from longlive_core.module_swap import receipts
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.wan import WanTransformer
from longlive_models.wan.recomputation import Checkpointing
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import Rows, TrainingStepOptions
from longlive_recipes.bench.ranks import peak_gpu_memory, reset_peak_memory
from longlive_recipes.bench.record import Keep, not_kept
from longlive_recipes.bench.shared_sizes import (
    TOLERANCE,
    Sizes,
    note_on_layers,
    relative_error,
    sizes_of_training,
)
from longlive_recipes.bench.shared_training import TrainingStep
from longlive_recipes.configs.plain_parts import PlainParts
from longlive_recipes.training.compilation import maybe_compile

TODAY = "blocks run again"
KEPT = "blocks run again, attention does not"
EIGHT = "the same, products in FP8"
COMPILED = ", compiled"

EIGHT_LOSS, EIGHT_GRADIENT = 0.05, 0.3
"""How far a step's numbers may be off where every operand of a product is: 4 % of its numbers."""


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
    """One way to take the step, and how far its loss and its gradients may be from today's."""

    model: WanTransformer
    checkpointing: Checkpointing
    forward: Callable[..., Tensor]
    bounds: tuple[float, float]


def measure(options: StepComparison, about: str, keep: Keep = not_kept) -> dict[str, Any]:
    """Check the loss and all gradients, then time, each way in turn.

    Compiled ways come after the others, in turns with today's: what a compiler does to them takes
    no time of the others away. A GPU without products in FP8 is not timed with them: it would be
    the time of an emulation.

    Args:
        keep: is given the rows of the ways that are not compiled, where compiled ones follow.

    Raises:
        AssertionError: a loss or gradients differ by more than rounding.
    """
    device = torch.device(options.device)
    step = TrainingStep(SequenceGroup(), device, options.sizes, balanced=True)
    eight = _in_eight_bits(step, options)
    product = _product(eight, device)
    has_eight = options.device == "cpu" or not product.emulated
    ways = _ways(step, eight if has_eight else None)
    found = {
        "about": about + note_on_layers(options.sizes),
        "checked": f"the loss and the gradients together differ by at most "
        f"{TOLERANCE[options.device]:g}, relative; of products in FP8 by {EIGHT_LOSS:g} and "
        f"{EIGHT_GRADIENT:g}",
        "products": str(product),
    }
    rows = _rows(step, ways, options.sizes.repeats)
    if options.compiled:
        keep(found | {"rows": rows, "unfinished": "compiled ways are still to come"})
        compiled = _rows(step, {TODAY: ways[TODAY], **_compiled(ways)}, options.sizes.repeats)
        rows |= {name: row for name, row in compiled.items() if name != TODAY}
    return found | {"rows": rows}


def _rows(step: TrainingStep, ways: dict[str, _Way], repeats: int) -> Rows:
    """Differences, seconds and memory of ways to take the step, today's first."""
    rows = _differences(step, ways)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            reset_peak_memory(step.device)
            times[name].append(_seconds(step, way))
            rows[name] |= peak_gpu_memory(step.group, step.device)
    today = median(times[TODAY])
    for name, row in rows.items():
        seconds = median(times[name])
        rows[name] = {"seconds": seconds, "times_faster": today / seconds, **row}
    return rows


def _ways(step: TrainingStep, eight: WanTransformer | None) -> dict[str, _Way]:
    """The ways that are compared, today's first; ``eight`` has products in FP8."""
    bound, plain = TOLERANCE[step.device.type], step.model
    same, rounded = (bound, bound), (EIGHT_LOSS, EIGHT_GRADIENT)
    ways = {
        TODAY: _Way(model=plain, checkpointing=True, forward=plain, bounds=same),
        KEPT: _Way(model=plain, checkpointing="attention", forward=plain, bounds=same),
    }
    if eight is not None:
        ways[EIGHT] = _Way(model=eight, checkpointing="attention", forward=eight, bounds=rounded)
    return ways


def _compiled(ways: dict[str, _Way]) -> dict[str, _Way]:
    """The same ways but today's, compiled as a whole."""
    return {
        name + COMPILED: replace(way, forward=maybe_compile(way.model.forward, True))
        for name, way in ways.items()
        if name != TODAY
    }


def _in_eight_bits(step: TrainingStep, options: StepComparison) -> WanTransformer:
    """The step's model with the same parameters, whose blocks' products are in FP8."""
    shared: dict[int, Any] = {id(one): one for one in (step.sp, *step.model.parameters())}
    model = copy.deepcopy(step.model, shared)
    convert_linears(
        model, Float8TrainingConfig(), keep=PlainParts().keep(options.sizes.model.num_layers)
    )
    return model


def _product(model: WanTransformer, device: torch.device) -> Receipt:
    """What products in FP8 run on, and why nothing faster does."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return receipts(model)["blocks.0.ffn.0"][-1]


def _differences(step: TrainingStep, ways: dict[str, _Way]) -> Rows:
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
        for (what, value), most in zip(row.items(), way.bounds, strict=True):
            require(value <= most, f"{name}: {what} {value:.1e}, more than {most:g}")
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
    way.model.gradient_checkpointing, step.forward = way.checkpointing, way.forward
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
