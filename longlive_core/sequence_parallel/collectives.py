"""What ranks send each other: one all-to-all, with gradients, in flight while others compute.

Every collective here has its exact adjoint as its gradient. A parameter's gradient is then right
after the *mean* over the ranks of the group, which is what DDP and FSDP take; see `README.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from longlive_core.sequence_parallel.group import SequenceGroup

Message = Float[Tensor, "*shape"]
Wire = UInt8[Tensor, " bytes"]


@runtime_checkable
class WireCodec(Protocol):
    """What a message looks like on the wire. Every message is encoded for itself."""

    @property
    def carries_gradients(self) -> bool:
        """Whether a gradient may travel this way; True only if nothing is rounded."""

    def nbytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """The bytes that a message takes; sender and receiver must agree before it is sent."""

    def encode(self, message: Message, wire: Wire) -> None:
        """Write a message, in any memory layout, to its bytes."""

    def decode(self, wire: Wire, message: Message) -> None:
        """Write the message that the bytes hold into ``message``, in place."""


class PlainWireCodec:
    """Tensors as they are."""

    carries_gradients = True

    def nbytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """As many as the tensor has."""
        return prod(shape) * dtype.itemsize

    def encode(self, message: Message, wire: Wire) -> None:
        """Copy, in order."""
        wire.view(message.dtype).view(message.shape).copy_(message)

    def decode(self, wire: Wire, message: Message) -> None:
        """Copy, in order."""
        message.copy_(wire.view(message.dtype).view(message.shape))


@dataclass(frozen=True, kw_only=True)
class Route:
    """How a tensor is cut up for the ranks, and how what arrives is put together.

    Rank ``j`` is sent ``cuts[j]`` entries of dimension ``cut``; what it sends lies in ``joins[j]``
    entries of dimension ``join``.
    """

    cut: int
    cuts: tuple[int, ...]
    join: int
    joins: tuple[int, ...]

    def back(self) -> "Route":
        """The route that undoes this one."""
        return Route(cut=self.join, cuts=self.joins, join=self.cut, joins=self.cuts)

    def arrival(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """The shape of what a rank has after the exchange of tensors like its own."""
        after = list(shape)
        after[self.cut] = self.cuts[rank]
        after[self.join] = sum(self.joins)
        return tuple(after)


class Flight:
    """One exchange under way, without gradients: it departs when made; ``wait`` for it once.

    What is sent may be the memory of ``x`` itself: leave it as it is until the exchange has ended.
    ``sent`` counts the bytes that other ranks are sent; what a rank keeps does not travel.
    """

    def __init__(self, x: Tensor, route: Route, group: SequenceGroup, wire: WireCodec) -> None:
        self._route, self._wire = route, wire
        self._shape = route.arrival(x.shape, group.rank)
        self._like = x.new_empty(())
        parts = x.split(route.cuts, route.cut)
        outgoing = [wire.nbytes(tuple(part.shape), x.dtype) for part in parts]
        incoming = [wire.nbytes(self._part(size), x.dtype) for size in route.joins]
        self._incoming = incoming
        self.sent = sum(outgoing) - outgoing[group.rank]
        self._received = torch.empty(sum(incoming), dtype=torch.uint8, device=x.device)
        if x.is_contiguous() and self._in_one_run(x.shape, route.cut):
            send = x.view(-1).view(torch.uint8)
        else:
            send = torch.empty(sum(outgoing), dtype=torch.uint8, device=x.device)
            for part, room in zip(parts, send.split(outgoing), strict=True):
                wire.encode(part, room)
        self._sent = send
        self._work = dist.all_to_all_single(
            self._received, send, incoming, outgoing, group.process_group, async_op=True
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what arrives."""
        return self._shape

    def wait(self) -> Tensor:
        """What the ranks sent, put together."""
        self._work.wait()
        if self._in_one_run(self._shape, self._route.join):
            out = self._received.view(self._like.dtype).view(self._shape)
        else:
            out = self._like.new_empty(self._shape)
            rooms = out.split(self._route.joins, self._route.join)
            for message, room in zip(self._received.split(self._incoming), rooms, strict=True):
                self._wire.decode(message, room)
        del self._work, self._sent, self._received
        return out

    def _in_one_run(self, shape: Sequence[int], dim: int) -> bool:
        """Whether the tensor's memory is the plain wire: part after part, nothing to copy."""
        return type(self._wire) is PlainWireCodec and prod(shape[:dim]) == 1

    def _part(self, size: int) -> tuple[int, ...]:
        part = list(self._shape)
        part[self._route.join] = size
        return tuple(part)


Depart = Callable[[Tensor, Route], Flight]


class Transfer:
    """An exchange under way, with gradients; ``wait`` gives what arrives.

    In the backward pass the gradient departs where the forward pass waited, and is waited for where
    the forward pass departed: what lies between overlaps in both directions. All ranks must start
    their transfers in one order.
    """

    def __init__(self, x: Tensor, route: Route, depart: Depart) -> None:
        self._leg = _Leg(route, depart)
        self._ticket: Tensor = _Departure.apply(x, self._leg)

    def wait(self) -> Tensor:
        """What the ranks sent, put together; to be called once."""
        return _Arrival.apply(self._ticket, self._leg)


class Arrived:
    """The transfer of one rank alone: everything is here already."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def wait(self) -> Tensor:
        """What was to be exchanged."""
        return self._x


class _Leg:
    """What both ends of a transfer share. It holds no graph, so that no cycle keeps one alive."""

    def __init__(self, route: Route, depart: Depart) -> None:
        self.route, self.depart = route, depart
        self.there: Flight | None = None
        self.back: Flight | None = None


class _Departure(torch.autograd.Function):
    """Sends; the output stands for what will arrive, has its shape and no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leg: _Leg) -> Tensor:
        ctx.leg = leg
        leg.there = leg.depart(x, leg.route)
        return x.new_empty(()).expand(leg.there.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.leg.back.wait(), None


class _Arrival(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ticket: Tensor, leg: _Leg) -> Tensor:
        ctx.leg = leg
        assert leg.there is not None
        return leg.there.wait()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.leg.back = ctx.leg.depart(grad, ctx.leg.route.back())
        return grad, None


def masked_mean(
    values: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"] | None, group: SequenceGroup
) -> Float[Tensor, ""]:
    """The sum of what counts on all ranks, over how much counts on all ranks; 0 if nothing does.

    Every rank passes its own part and gets the same number. ``mask`` weighs each value; None counts
    all. The gradient on a rank is ``group.size`` times its part of the whole, so that the mean over
    the group is the whole: average the gradients of parameters, as DDP and FSDP do.
    """
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
