"""Activation checkpointing of a block: what the backward pass computes again, and what it does not.

A block under a checkpoint keeps its input and is run again in the backward pass. Of a long sequence
that is mostly attention, whose output is small beside what it costs. ``"attention"`` keeps that
output (and the log-sum-exp that its gradient reads), and computes the rest again: queries, keys and
values, the linears, the norms.

How it is kept depends on who runs the block. In eager mode ``KeptAttention`` holds the graph of the
first pass's attention without its queries, keys and values; the second pass hands those over. No
operation is looked up by its name, so every backend works, and nothing is rounded otherwise.
Compiled code is told which operations' outputs to save.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from longlive_core.checks import shown

Checkpointing = bool | Literal["attention"]
"""Whether a block is run again in the backward pass; ``"attention"``: all of it but attention."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_COMPILED = (
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "flex_attention",
)
"""The operations of attention that compiled code saves the outputs of."""


def check_checkpointing(name: str, value: object) -> None:
    """Raise ValueError for what is no ``Checkpointing``."""
    if value not in (False, True, "attention") or not isinstance(value, bool | str):
        raise ValueError(
            f"{name} is true, false or 'attention', got {shown(value)}: blocks are run again in "
            f"the backward pass, or are not, or all of them is but attention."
        )


def recomputed(
    block: Callable[..., Tensor], *inputs: Any, keep: "KeptAttention | None" = None
) -> Tensor:
    """``block(*inputs)``, run again in the backward pass.

    ``keep`` is what ``block`` attends through, if attention is not to be run again. Compiled code
    needs none of it: there the graph saves what attention gave.
    """
    if keep is not None and torch.compiler.is_compiling():
        contexts = partial(create_selective_checkpoint_contexts, _save_attention)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)
    return checkpoint(block, *inputs, use_reentrant=False)


def _save_attention(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """What a compiled graph does with the output of each operation."""
    saved = str(operation) in _COMPILED
    return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE


class KeptAttention:
    """What one block's attention gave in the forward pass, for the backward pass.

    Holds the output and the graph behind it, in which queries, keys and values are missing: they
    are computed again. All of it is dropped once their gradients are known; a second backward pass
    of the same graph attends again.
    """

    def __init__(self) -> None:
        self._output: Tensor | None = None
        self._edges: tuple[GradientEdge, ...] = ()
        self._operands = _Operands()

    def attend(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``attend(q, k, v)``, or what it gave in the forward pass, with its gradient."""
        if torch.compiler.is_compiling() or not any(x.requires_grad for x in (q, k, v)):
            return attend(q, k, v)
        return _Kept.apply(q, k, v, attend, self)

    def output(self, attend: Attend, operands: tuple[Tensor, ...]) -> Tensor:
        """What attention gives, without a gradient; computed where it is not held."""
        if self._output is None:
            token = torch.empty(0, dtype=torch.float32, device="cpu", requires_grad=True)
            self._operands.fill(operands)
            with torch.enable_grad():
                entered = [_Enter.apply(token, x) for x in operands]
                self._edges = tuple(get_gradient_edge(x) for x in entered)
                with saved_tensors_hooks(self._operands.left_out, self._operands.given):
                    self._output = attend(*entered)
            self._operands.clear()
        return self._output.detach()

    def gradients(self, operands: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values; what was held is dropped."""
        assert self._output is not None, "the second pass has attended, or found the first's output"
        self._operands.fill(operands)
        found = torch.autograd.grad(self._output, self._edges, grad, allow_unused=True)
        self._operands.clear()
        self._output, self._edges = None, ()
        return found


class _Operands:
    """The queries, keys and values that a graph's saved tensors stand for."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, ...] = ()

    def fill(self, operands: tuple[Tensor, ...]) -> None:
        self._held = operands

    def clear(self) -> None:
        self._held = ()

    def left_out(self, saved: Tensor) -> Any:
        """A saved tensor, or where it lies in the memory of an operand."""
        for place, x in enumerate(self._held):
            if saved.untyped_storage() is x.untyped_storage() and saved.dtype == x.dtype:
                offset = saved.storage_offset() - x.storage_offset()
                return place, saved.size(), saved.stride(), offset, x.stride()
        return saved.detach()  # an output as it is would hold the graph that holds it

    def given(self, packed: Any) -> Tensor:
        """The saved tensor, from the operands of the second pass."""
        if isinstance(packed, Tensor):
            return packed
        place, size, stride, offset, whole_stride = packed
        x = self._held[place]
        assert x.stride() == whole_stride, "both passes lay out operands alike"
        return x.detach().as_strided(size, stride, x.storage_offset() + offset)


class _Enter(torch.autograd.Function):
    """A tensor as it enters a graph that shall not hold it, as it would hold a leaf."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, x: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None]:
        raise AssertionError("gradients are taken before they come here")


class _Kept(torch.autograd.Function):
    """Attention whose output outlives the first pass. A checkpoint recomputes what is saved."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, attend: Attend, kept: KeptAttention
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.kept = kept
        return kept.output(attend, (q, k, v))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            return *ctx.kept.gradients(operands, grad), None, None
