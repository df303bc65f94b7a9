"""BalancedSP: one video over many ranks, for training and for generation."""

import torch
from jaxtyping import Float, Num, Shaped
from torch import Tensor

from longlive_core.checks import instance, switch, whole
from longlive_core.living import number_of
from longlive_core.sequence_parallel.collectives import (
    CompletedTransfer,
    Exchange,
    ExchangeLayout,
    PlainWireCodec,
    Transfer,
    WireCodec,
    masked_mean,
)
from longlive_core.sequence_parallel.compiled import exchange
from longlive_core.sequence_parallel.group import SequenceGroup
from longlive_core.sequence_parallel.partition import BalancedPartition, split_evenly
from longlive_core.tensor_checks import dense

Heads = Float[Tensor, "batch tokens heads head_dim"]


class BalancedSP:
    """Exchanges a part of the sequence with all heads for the whole sequence with some heads.

    Outside attention a rank works on its own frames alone (``shard``); around attention
    ``to_heads`` and ``to_sequence`` exchange tokens for heads. With one rank nothing is
    communicated. All ranks of the group must call the same methods in the same order.

    Tokens that every rank holds, such as those of a text that attends together with the video, are
    not exchanged: ``own_heads`` and ``gather_heads`` take them there and back.

    Heads are dealt out in order, one more to each of the first ``heads % size`` ranks if they do
    not divide: the ranks with more set the pace.

    Args:
        group: the ranks that share the video.
        partition: who holds what; for a sequence of other sizes, ``over`` makes another exchange.
        heads: attention heads of the model.
        wire: how q, k, v and the output of attention are encoded for sending; unchanged if not
            given. Only a codec that rounds nothing carries gradients. Results of a codec that
            rounds are the same on two ranks and more, and not those of one rank, which sends
            nothing and so rounds nothing, unless ``round_alone``.
        round_alone: one rank alone rounds as the wire of several would, to make their numbers.

    Attributes:
        group, partition, wire, round_alone: as given.
        heads: those that this rank attends with.
        bytes_sent: what this rank has sent to others so far, gradients included.
    """

    def __init__(
        self,
        group: SequenceGroup,
        partition: BalancedPartition,
        *,
        heads: int,
        wire: WireCodec | None = None,
        round_alone: bool = False,
    ) -> None:
        why = "it is the ranks that share a video. Use SequenceGroup() for one rank alone."
        instance("BalancedSP's group", group, SequenceGroup, why=why)
        why = "it says who holds what. Build a BalancedPartition(frames=..., ranks=..., ...)."
        instance("BalancedSP's partition", partition, BalancedPartition, why=why)
        wire = PlainWireCodec() if wire is None else wire
        why = "it says what is sent. Leave it out to send tensors unchanged."
        instance("BalancedSP's wire", wire, WireCodec, why=why)
        heads = whole("heads", heads, at_most=2**20, why="they are the model's attention heads.")
        if partition.ranks != group.size:
            raise ValueError(
                f"the partition is for {partition.ranks} ranks, the group has {group.size}. "
                f"Build it with ranks=group.size."
            )
        if heads < group.size:
            raise ValueError(
                f"{heads} heads cannot be dealt out to {group.size} ranks: each needs one at "
                f"least. Use groups of at most {heads} ranks, or repeat key heads to one a rank."
            )
        self.group = group
        self.wire = wire
        switch("round_alone", round_alone, why="One rank rounds as several would, or does not.")
        self.round_alone = round_alone
        self.bytes_sent = 0
        self._ticket = torch.tensor(number_of(self), dtype=torch.int64, device="cpu")
        self._heads_by_rank = tuple(len(r) for r in split_evenly(heads, group.size))
        self.heads = split_evenly(heads, group.size)[group.rank]
        self.partition = partition
        self._tokens_by_rank = partition.tokens_by_rank

    def over(self, partition: BalancedPartition) -> "BalancedSP":
        """The exchange of a sequence of other sizes: the same ranks, heads and wire.

        It counts ``bytes_sent`` from 0. Raises ValueError for a partition of other ranks.
        """
        return BalancedSP(
            self.group,
            partition,
            heads=sum(self._heads_by_rank),
            wire=self.wire,
            round_alone=self.round_alone,
        )

    @property
    def frames(self) -> range:
        """The frames that this rank holds."""
        return self.partition.frames_of(self.group.rank)

    @property
    def blocks(self) -> range:
        """The blocks that this rank holds."""
        return self.partition.blocks_of(self.group.rank)

    def shard(self, x: Shaped[Tensor, "..."], dim: int) -> Shaped[Tensor, "..."]:
        """This rank's frames of ``x``, whose dimension ``dim`` counts all frames; a view."""
        return _narrow(x, dim, self.frames, self.partition.frames, "frames")

    def shard_blocks(self, x: Shaped[Tensor, "..."], dim: int) -> Shaped[Tensor, "..."]:
        """This rank's blocks of ``x``, such as one text for each block; a view."""
        return _narrow(x, dim, self.blocks, self.partition.blocks, "blocks")

    def start(self, x: Heads) -> Transfer | Exchange | CompletedTransfer:
        """Start to exchange this rank's tokens of all heads for all tokens of this rank's heads.

        ``x`` is [batch, own tokens, all heads, head_dim]; ``start(x).wait()`` is [batch, all
        tokens, own heads, head_dim]. What is computed between the two overlaps with the exchange.

        Raises:
            ValueError: other tokens or heads, or a gradient over a codec that carries none.
        """
        self._check(x, self._tokens_by_rank[self.group.rank], sum(self._heads_by_rank))
        if torch.compiler.is_compiling() and self.group.size > 1:
            raise ValueError(
                "start in compiled code: a compiler may reorder exchanges that do not depend on "
                "one another, and another rank's would arrive in their place. Call to_heads, which "
                "makes one exchange of three."
            )
        return self._transfer(x, back=False)

    def to_heads(self, q: Heads, k: Heads, v: Heads) -> tuple[Heads, Heads, Heads]:
        """Exchange this rank's tokens of all heads for all tokens of this rank's heads.

        [batch, own tokens, all heads, head_dim] -> [batch, all tokens, own heads, head_dim], each.

        Keys and values of fewer heads than queries go through a second ``BalancedSP`` of the same
        group and partition, with ``heads`` of both a multiple of the ranks: each rank then has the
        key heads that its query heads read. Fewer key heads than ranks are repeated before, one for
        each rank: ``k.repeat_interleave(group.size // key_heads, 2)``.
        """
        if torch.compiler.is_compiling():
            self._check(q, self._tokens_by_rank[self.group.rank], sum(self._heads_by_rank))
            q, k, v = self._transfer(torch.cat((q, k, v)), back=False).wait().chunk(3)
            return q, k, v
        started = [self.start(x) for x in (q, k, v)]
        q, k, v = (transfer.wait() for transfer in started)
        return q, k, v

    def to_sequence(self, x: Heads) -> Heads:
        """The inverse of ``to_heads``, for the output of attention.

        [batch, all tokens, own heads, head_dim] -> [batch, own tokens, all heads, head_dim].
        """
        self._check(x, sum(self._tokens_by_rank), len(self.heads))
        return self._transfer(x, back=True).wait()

    def gather(self, x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
        """The frames of all ranks, on every rank; ``dim`` counts this rank's frames in ``x``.

        The gradient of a rank's frames is the sum of the gradients of that part on all ranks.
        """
        _narrow(x, dim, range(len(self.frames)), len(self.frames), "frames of this rank")
        frames = tuple(len(self.partition.frames_of(rank)) for rank in range(self.group.size))
        return self._gathered(x, dim % x.ndim, frames)

    def own_heads(self, x: Heads) -> Heads:
        """This rank's heads of tokens that every rank holds; a view, and nothing is sent.

        [batch, tokens, all heads, head_dim] -> [batch, tokens, own heads, head_dim], to be put
        beside what ``to_heads`` gives.
        """
        self._check_heads(x, sum(self._heads_by_rank))
        return x[:, :, self.heads.start : self.heads.stop]

    def gather_heads(self, x: Heads) -> Heads:
        """The heads of all ranks, on every rank, of tokens that every rank holds.

        [batch, tokens, own heads, head_dim] -> [batch, tokens, all heads, head_dim]: what attention
        gave for such tokens. It travels unrounded. The gradient of a rank's heads is the sum of
        the gradients of that part on all ranks.
        """
        self._check_heads(x, len(self.heads))
        return self._gathered(x, 2, self._heads_by_rank)

    def masked_mean(
        self, values: Float[Tensor, "*shape"], mask: Shaped[Tensor, "*shape"] | None = None
    ) -> Float[Tensor, ""]:
        """The weighted mean over all ranks: ``collectives.masked_mean`` over the group."""
        return masked_mean(values, mask, self.group)

    def max_over_group(self, x: Num[Tensor, "*shape"]) -> Num[Tensor, "*shape"]:
        """The largest of every rank's ``x``, element by element; no gradient.

        A tensor scale from this maximum gives codes that do not depend on the number of ranks.
        """
        return self.group.max(x)

    @torch.no_grad()
    def exchange_now(self, x: Heads, back: bool) -> Heads:
        """The exchange of ``to_heads``, or ``back`` of ``to_sequence``, without a gradient.

        What a compiled graph calls; everybody else has those two.
        """
        return self._start_exchange(x, self._layout(back)).wait()

    def _gathered(self, x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
        """What all ranks have, put together along ``dim``, where rank ``j`` has ``sizes[j]``."""
        if self.group.size == 1:
            return x
        layout = ExchangeLayout(cut=0, cuts=(1,) * self.group.size, join=1 + dim, joins=sizes)
        copies = x[None].expand(self.group.size, *x.shape)
        return Transfer(copies, layout, self._start_plain_exchange).wait()[0]

    def _transfer(self, x: Tensor, back: bool) -> Transfer | Exchange | CompletedTransfer:
        if self.group.size == 1 and not self.round_alone:
            return CompletedTransfer(x)
        differentiable = torch.is_grad_enabled() and x.requires_grad
        if differentiable and not self.wire.carries_gradients:
            raise ValueError(
                f"{self.wire} rounds what it sends, so it carries no gradient. Train with the "
                f"plain wire, or generate under torch.no_grad()."
            )
        if self.group.size == 1:
            return CompletedTransfer(self.wire.decode(self.wire.encode(x), x.dtype))
        if torch.compiler.is_compiling():
            tokens, heads = sum(self._tokens_by_rank), len(self.heads)
            if back:
                tokens = self._tokens_by_rank[self.group.rank]
                heads = sum(self._heads_by_rank)
            return CompletedTransfer(exchange(x, self._ticket, back, tokens, heads))
        layout = self._layout(back)
        if differentiable:
            return Transfer(x, layout, self._start_exchange)
        return self._start_exchange(x, layout)

    def _layout(self, back: bool) -> ExchangeLayout:
        there = ExchangeLayout(cut=2, cuts=self._heads_by_rank, join=1, joins=self._tokens_by_rank)
        return there.inverse() if back else there

    def _start_exchange(self, x: Tensor, layout: ExchangeLayout) -> Exchange:
        exchange = Exchange(x, layout, self.group, self.wire)
        self.bytes_sent += exchange.sent
        return exchange

    def _start_plain_exchange(self, x: Tensor, layout: ExchangeLayout) -> Exchange:
        exchange = Exchange(x, layout, self.group, PlainWireCodec())
        self.bytes_sent += exchange.sent
        return exchange

    def _check_heads(self, x: Heads, heads: int) -> None:
        _check_rank(x)
        if x.shape[2] != heads:
            raise ValueError(
                f"rank {self.group.rank} of {self.group.size} has {heads} heads of such tokens "
                f"here, got {x.shape[2]}: own_heads takes all heads and gives this rank's, "
                f"gather_heads takes this rank's and gives all."
            )

    def _check(self, x: Heads, tokens: int, heads: int) -> None:
        _check_rank(x)
        if x.shape[1:3] == (tokens, heads):
            return
        way_out = (
            "Heads that are fewer, of grouped keys, have a BalancedSP of their own with heads= "
            "theirs, repeated to one a rank if there are fewer than ranks."
            if x.shape[1] == tokens and x.shape[2] < heads
            else "Shard the video by this partition, or take ``over`` of this sequence's."
        )
        raise ValueError(
            f"rank {self.group.rank} of {self.group.size} exchanges {tokens} tokens of {heads} "
            f"heads here, got {x.shape[1]} tokens of {x.shape[2]} heads: the partition and heads "
            f"given to BalancedSP say who holds what. {way_out}"
        )


def _check_rank(x: Tensor) -> None:
    dense("what ranks exchange", x, why="it is [batch, tokens, heads, head_dim].")
    if x.ndim != 4:
        raise ValueError(
            f"ranks exchange [batch, tokens, heads, head_dim], got shape {tuple(x.shape)}: tokens "
            f"and heads are what they share out. Add the dimensions that lack."
        )


def _narrow(x: Tensor, dim: int, own: range, count: int, what: str) -> Tensor:
    dense("what a rank takes its part of", x, why=f"a dimension of it counts {what}.")
    why = f"it is the dimension that counts {what}."
    dim = whole("dim", dim, at_least=-x.ndim, at_most=x.ndim - 1, why=why)
    if x.shape[dim] != count:
        raise ValueError(
            f"dimension {dim} of a tensor of shape {tuple(x.shape)} should count {count} {what}, "
            f"and has {x.shape[dim]} entries. Pass the dimension that counts them."
        )
    return x.narrow(dim, own.start, len(own))
