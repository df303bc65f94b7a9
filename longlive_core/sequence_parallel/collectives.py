"""All-to-all exchanges between ranks, with gradients, that overlap with computation.

Every collective here has its exact adjoint as its gradient. A parameter's gradient is then right
after the *mean* over the ranks of the group, which is what DDP and FSDP take; see `README.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from longlive_core.checks import instance
from longlive_core.sequence_parallel.group import SequenceGroup
from longlive_core.tensor_checks import dense, float_type

Message = Float[Tensor, "*rows cols"]
Wire = Shaped[Tensor, "*rows width"]


@runtime_checkable
class WireCodec(Protocol):
    """Encodes what ranks send each other, such as in eight or four bits, and decodes it again.

    A row, the last dimension, is encoded by itself. A message is therefore encoded once, before it
    is cut up for the ranks along its other dimensions, and decoded once, after what arrives has
    been put together.
    """

    @property
    def carries_gradients(self) -> bool:
        """Whether a gradient may travel this way; True only if nothing is rounded."""

    def encode(self, message: Message) -> Wire:
        """The message [*rows, cols] as it is sent: [*rows, width], of any dtype."""

    def decode(self, wire: Wire, dtype: torch.dtype) -> Message:
        """The message [*rows, cols] of ``dtype`` that was encoded as ``wire``."""


@dataclass(frozen=True)
class PlainWireCodec:
    """Sends tensors unchanged; carries gradients."""

    carries_gradients = True

    def encode(self, message: Message) -> Wire:
        """The message itself."""
        return message

    def decode(self, wire: Wire, dtype: torch.dtype) -> Message:
        """What was sent, unchanged."""
        return wire


@dataclass(frozen=True, kw_only=True)
class ExchangeLayout:
    """How one all-to-all cuts up a tensor for the ranks and puts together what arrives.

    Rank ``j`` is sent ``cuts[j]`` entries of dimension ``cut``; what it sends lies in ``joins[j]``
    entries of dimension ``join``.
    """

    cut: int
    cuts: tuple[int, ...]
    join: int
    joins: tuple[int, ...]

    def inverse(self) -> "ExchangeLayout":
        """The layout of the exchange that undoes this one."""
        return ExchangeLayout(cut=self.join, cuts=self.joins, join=self.cut, joins=self.cuts)

    def arrival(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """The shape of what a rank has after the exchange of tensors like its own."""
        return _with(_with(shape, self.cut, self.cuts[rank]), self.join, sum(self.joins))


class Exchange:
    """One all-to-all under way, without gradients: it starts when made; ``wait`` for it once.

    What is sent may be the memory of ``x`` itself: leave it as it is until the exchange has ended.
    ``sent`` counts the bytes that other ranks are sent; what a rank keeps does not travel.
    """

    def __init__(
        self, x: Tensor, layout: ExchangeLayout, group: SequenceGroup, wire: WireCodec
    ) -> None:
        self._layout, self._wire, self._dtype = layout, wire, x.dtype
        self._shape = layout.arrival(x.shape, group.rank)
        packed = wire.encode(x)
        self._packed_shape = layout.arrival(packed.shape, group.rank)
        outgoing = _numbers(packed.shape, layout.cut, layout.cuts)
        self._incoming = _numbers(self._packed_shape, layout.join, layout.joins)
        self._sent = packed.view(-1) if _in_one_run(packed, layout.cut) else _cut_up(packed, layout)
        self._received = packed.new_empty(sum(self._incoming))
        size = packed.itemsize
        self.sent = (sum(outgoing) - outgoing[group.rank]) * size
        self._work = dist.all_to_all_single(
            self._received.view(torch.uint8),
            self._sent.view(torch.uint8),
            [size * numbers for numbers in self._incoming],
            [size * numbers for numbers in outgoing],
            group.process_group,
            async_op=True,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what arrives."""
        return self._shape

    def wait(self) -> Shaped[Tensor, "..."]:
        """What the ranks sent, put together."""
        self._work.wait()
        shape, join = self._packed_shape, self._layout.join
        if prod(shape[:join]) == 1:  # part after part is how it lies
            packed = self._received.view(shape)
        else:
            parts = self._received.split(self._incoming)
            sizes = zip(parts, self._layout.joins, strict=True)
            packed = torch.cat([part.view(_with(shape, join, size)) for part, size in sizes], join)
        del self._work, self._sent, self._received
        return self._wire.decode(packed, self._dtype)


def _cut_up(x: Tensor, layout: ExchangeLayout) -> Tensor:
    """The parts of ``x`` one after the other, copied in one call."""
    numbers = _numbers(x.shape, layout.cut, layout.cuts)
    out = x.new_empty(sum(numbers))
    rooms = [
        room.view(_with(x.shape, layout.cut, size))
        for room, size in zip(out.split(numbers), layout.cuts, strict=True)
    ]
    torch.split_with_sizes_copy(x, layout.cuts, layout.cut, out=rooms)
    return out


def _in_one_run(x: Tensor, dim: int) -> bool:
    """Whether the parts of ``x`` along ``dim`` lie one after the other: nothing to copy."""
    return x.is_contiguous() and prod(x.shape[:dim]) == 1


def _numbers(shape: Sequence[int], dim: int, sizes: Sequence[int]) -> list[int]:
    """How many numbers each part along ``dim`` has."""
    others = prod(_with(shape, dim, 1))
    return [others * size for size in sizes]


def _with(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    """``shape``, but ``size`` along ``dim``."""
    return (*shape[:dim], size, *shape[dim + 1 :])


StartExchange = Callable[[Tensor, ExchangeLayout], Exchange]


class Transfer:
    """An exchange under way, with gradients; ``wait`` gives what arrives.

    In the backward pass the gradient is sent where the forward pass waited, and is waited for where
    the forward pass sent: what lies between overlaps in both directions. All ranks must start
    their transfers in one order.
    """

    def __init__(self, x: Tensor, layout: ExchangeLayout, start: StartExchange) -> None:
        self._shared = _TransferState(layout, start)
        self._placeholder: Tensor = _StartTransfer.apply(x, self._shared)

    def wait(self) -> Shaped[Tensor, "..."]:
        """What the ranks sent, put together; to be called once."""
        return _FinishTransfer.apply(self._placeholder, self._shared)


class CompletedTransfer:
    """The transfer of a group of one rank: nothing has to be sent."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def wait(self) -> Shaped[Tensor, "..."]:
        """The tensor itself."""
        return self._x


class _TransferState:
    """What both ends of a transfer share. It holds no graph, so that no cycle keeps one alive."""

    def __init__(self, layout: ExchangeLayout, start: StartExchange) -> None:
        self.layout, self.start = layout, start
        self.forward: Exchange | None = None
        self.backward: Exchange | None = None


class _StartTransfer(torch.autograd.Function):
    """Sends; the output stands for what will arrive, has its shape and no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: _TransferState) -> Tensor:
        ctx.state = state
        state.forward = state.start(x, state.layout)
        return x.new_empty(()).expand(state.forward.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.state.backward.wait(), None


class _FinishTransfer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, placeholder: Tensor, state: _TransferState) -> Tensor:
        ctx.state = state
        assert state.forward is not None
        return state.forward.wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.state.backward = ctx.state.start(grad, ctx.state.layout.inverse())
        return grad, None


def masked_mean(
    values: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"] | None, group: SequenceGroup
) -> Float[Tensor, ""]:
    """sum(mask * values) / sum(mask) over all ranks of the group; 0 where the mask is 0 throughout.

    Every rank passes its own values and gets the same number. ``mask`` has the shape of ``values``;
    None weighs all equally. The gradient on a rank is ``group.size`` times its part of the whole,
    so that the mean over the group is the whole: average the gradients of parameters, as DDP and
    FSDP do.
    """
    dense("values", values, why="their mean is taken.")
    float_type("the type of values", values.dtype, why="a mean is a fraction. Convert them.")
    instance("group", group, SequenceGroup, why="its ranks have values. Use SequenceGroup() alone.")
    if mask is not None:
        dense("mask", mask, why="it weighs the values.")
        if mask.shape != values.shape:
            raise ValueError(
                f"a masked mean takes a weight for each value, got a mask of {tuple(mask.shape)} "
                f"for values of {tuple(values.shape)}: their sum is what is divided by. Expand it."
            )
    weights = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    return _MaskedMean.apply(values, weights, group)


class _MaskedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, group: SequenceGroup) -> Tensor:
        wide = torch.promote_types(values.dtype, torch.float32)
        weights = weights.to(wide)
        total, count = group.sum(torch.stack(((values * weights).sum(), weights.sum())))
        count = count.clamp_min(torch.finfo(wide).tiny)
        ctx.save_for_backward(weights / count * group.size)
        ctx.dtype = values.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (share,) = ctx.saved_tensors
        return (grad * share).to(ctx.dtype), None, None
