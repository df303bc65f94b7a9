"""How much memory a training run will take, by part, before it is begun.

What lasts (weights, averages, the optimizer's states, clips) is counted; what comes and goes in a
step is found by taking the step on tensors without values (``live_bytes``), with a few layers: each
further one adds as much as the last of these.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from longlive_recipes.training.live_bytes import (
    LiveBytes,
    fake_tensors,
    kept_when_compiled,
    norms_as_on_gpu,
)

GIB = 1 << 30
FLOAT32 = 4
GRADIENTS = "gradients, in float32"
MOST_LAYERS = 4
"""How many layers of a model are rehearsed."""

LIBRARIES = 32 << 20
"""Bytes that cuBLAS works in on a GPU, and that torch counts."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """What one step of a model takes beside what lasts, in bytes.

    Attributes:
        kept: what the forward pass keeps for the backward pass, casts of weights included.
        gradients: gradients that are there when most is taken.
        passing: what else is there then.
    """

    kept: int
    gradients: int
    passing: int

    @property
    def total(self) -> int:
        """All of it, at the moment when most is taken."""
        return self.kept + self.gradients + self.passing


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of a run on one device, in bytes.

    Attributes:
        lasting: what is there all the time, by part.
        step: what a step takes in its forward and backward pass.
        update: what an update of the weights takes: all gradients, and what the optimizer works in.
        tokens: tokens of a step on this device, clean and noisy copies; or ``unit`` instead.
        about: what the numbers are of, in words.
        unit: what a step is counted in.
    """

    lasting: Mapping[str, int]
    step: StepMemory
    update: Mapping[str, int]
    tokens: int
    about: str
    unit: str = "tokens"

    @property
    def peak(self) -> int:
        """The most bytes of tensors at a time."""
        within = max(self.step.total, sum(self.update.values()))
        return sum(self.lasting.values()) + within

    def lines(self) -> list[str]:
        """The plan as a table for people."""
        in_step = {
            "activations kept for the backward pass": self.step.kept,
            "gradients when most is taken": self.step.gradients,
            "what passes within a step": self.step.passing,
        }
        rows = {**self.lasting, **(in_step if self._is_step() else self.update)}
        wide = max(map(len, rows))
        return [
            f"predicted memory of a device: {shown_size(self.peak)} ({self.about})",
            *(f"  {name:{wide}}  {shown_size(size):>10}" for name, size in rows.items()),
            f"{self.unit} of a step on a device: {self.tokens:,}",
        ]

    def _is_step(self) -> bool:
        return self.step.total >= sum(self.update.values())


@dataclass(frozen=True)
class Rehearsed:
    """A model to be rehearsed, made of fake tensors.

    Attributes:
        module: its parts, whose parameters are trained.
        call: the model's output for inputs, which have to be passed on as they are.
        inputs: makes fake inputs of ``call``.
        compiled: makes a function and its inputs for a compiler; None: it is not compiled.
    """

    module: nn.Module
    call: Callable[..., Tensor]
    inputs: Callable[[], tuple[Any, ...]]
    compiled: Callable[[], tuple[Callable[..., Tensor], tuple[Any, ...]]] | None = None


def rehearse(
    make: Callable[[int], Rehearsed], layers: int, *, autocast: bool, gpu: bool = False
) -> StepMemory:
    """What a step of a model takes, of which ``make`` gives one with so many layers.

    With ``gpu`` norms keep for the backward pass what they keep there.
    """
    few = min(layers, MOST_LAYERS)
    step = last = _rehearse(make, few, autocast=autocast, gpu=gpu)
    if few < layers:
        before = _rehearse(make, few - 1, autocast=autocast, gpu=gpu)
        total = _of_all(before.total, last.total, layers - few)
        gradients = _of_all(before.gradients, last.gradients, layers - few)
        kept = min(_of_all(before.kept, last.kept, layers - few), total - gradients)
        step = StepMemory(kept=kept, gradients=gradients, passing=total - gradients - kept)
    one = _kept_when_compiled(make, 1, autocast=autocast)
    if one is None:
        return step
    if layers > 1:
        two = _kept_when_compiled(make, 2, autocast=autocast)
        one = _of_all(one, two or one, layers - 2)
    return replace(step, kept=one)


def _of_all(before: int, last: int, further: int) -> int:
    """With further layers, each of which adds as much as the last one did."""
    return max(0, last + further * (last - before))


def _rehearse(
    make: Callable[[int], Rehearsed], layers: int, *, autocast: bool, gpu: bool
) -> StepMemory:
    with fake_tensors():
        made = make(layers)
        grown: list[int] = []

        def grew(parameter: Tensor) -> None:
            grown.append(parameter.numel() * FLOAT32)

        for parameter in filter(lambda p: p.requires_grad, made.module.parameters()):
            parameter.register_post_accumulate_grad_hook(grew)
        live = LiveBytes(noted=lambda: sum(grown))
        live.hold(made.module.parameters())
        live.hold(made.module.buffers())
        before = live.now
        with live, norms_as_on_gpu() if gpu else nullcontext():
            inputs = made.inputs()
            with _autocast(autocast):
                loss = made.call(*inputs).float().square().mean()
            kept = live.now - before
            loss.backward()
        gradients, most = live.at_peak, live.peak - before
        kept = min(kept, most - gradients)
        return StepMemory(kept=kept, gradients=gradients, passing=most - gradients - kept)


def _kept_when_compiled(
    make: Callable[[int], Rehearsed], layers: int, *, autocast: bool
) -> int | None:
    with fake_tensors():
        made = make(layers)
        if made.compiled is None:
            return None
        with _autocast(autocast):
            call, given = made.compiled()
            return kept_when_compiled(call, *given)


def _autocast(wanted: bool) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if wanted else nullcontext()


def of_parameters(
    trained: int,
    frozen: int,
    *,
    averaged: bool,
    ranks: int,
    bytes_a_state: int = FLOAT32,
    moved_by_muon: int = 0,
) -> dict[str, int]:
    """What lasts of so many numbers that are trained and that are not, in bytes.

    Args:
        averaged: whether there is a moving average of them.
        bytes_a_state: of each of AdamW's two numbers.
        moved_by_muon: how many of those that are trained have Muon's one number instead.
        ranks: over how many they are shared out.
    """
    parts = {
        "weights, in float32": FLOAT32 * (trained + frozen),
        "states of the optimizer": 2 * bytes_a_state * (trained - moved_by_muon)
        + FLOAT32 * moved_by_muon,
    }
    if averaged:
        parts["moving average"] = FLOAT32 * trained
    return {name: size // ranks for name, size in parts.items()}


def of_update(trained: int, *, fused: bool, ranks: int) -> dict[str, int]:
    """What an update takes beside what lasts: all gradients, and roots of their squares' averages.

    Args:
        fused: the optimizer is one kernel, which needs no room of its own.
        ranks: over how many the gradients are shared out.
    """
    parts = {GRADIENTS: FLOAT32 * trained}
    if not fused:
        parts["what the optimizer works in"] = FLOAT32 * trained
    return {name: size // ranks for name, size in parts.items()}


def shown_size(size: int) -> str:
    """Bytes in GiB or MiB, for people."""
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / (1 << 20):.1f} MiB"
