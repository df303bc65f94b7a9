"""The exchange as one operation of a compiled graph, with its gradient.

A graph holds no process group: the operation finds its ``BalancedSP`` by a number when it runs.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from longlive_core.living import living


class Exchanging(Protocol):
    """What exchanges when the graph comes to it."""

    def exchange_now(self, x: Tensor, back: bool) -> Tensor:
        """The exchange of tokens for heads, or the way ``back``, without gradients."""


@torch.library.custom_op("longlive::exchange", mutates_args=())
def exchange(x: Tensor, ticket: Tensor, back: bool, tokens: int, heads: int) -> Tensor:
    """From [batch, .., .., head_dim] to [batch, tokens, heads, head_dim]."""
    who: Exchanging = living(int(ticket), "a BalancedSP")
    return who.exchange_now(x, back).contiguous()


@exchange.register_fake
def _(x: Tensor, ticket: Tensor, back: bool, tokens: int, heads: int) -> Tensor:
    return x.new_empty(x.shape[0], tokens, heads, x.shape[3])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ticket, ctx.back, _, _ = inputs
    ctx.tokens, ctx.heads = x.shape[1], x.shape[2]
    ctx.save_for_backward(ticket)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    (ticket,) = ctx.saved_tensors
    return exchange(grad, ticket, not ctx.back, ctx.tokens, ctx.heads), None, None, None, None


exchange.register_autograd(_gradient, setup_context=_remember)
