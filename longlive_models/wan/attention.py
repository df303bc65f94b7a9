"""Self- and cross-attention, and the protocols of the cache and sequence exchange that they use."""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.attention import (
    AnyMask,
    attention,
    attention_over_codes,
    masked_attention,
)
from longlive_core.eight_bit import EncodedHeads, EncodedRows
from longlive_core.float8 import Float8Linear
from longlive_core.fused import rotate_heads
from longlive_models.wan.recomputation import Attend, KeptAttention
from longlive_models.wan.rope import Rotation, rotate

Heads = Float[Tensor, "batch tokens heads head_dim"]
KeysValues = tuple[Heads, Heads]


@runtime_checkable
class Memory(Protocol):
    """The keys and values of blocks already generated and of the block in progress: a protocol.

    A key-value cache is one. It decides which blocks are visible and how they are stored.
    """

    def write(self, layer: int, k: Heads, v: Heads, *, clean: bool) -> None:
        """Store the current block's keys and values; ``clean`` on its last pass.

        Keys are rotated, unless positions are given at each read (``key_positions``).
        """

    def read(self, layer: int) -> KeysValues:
        """Return all keys and values that the current block may attend to, its own included.

        They may have any float dtype: attention casts them to the queries'.
        """


@runtime_checkable
class RoomyMemory(Memory, Protocol):
    """A memory that lets keys and values be computed where it will keep them."""

    def room(self, layer: int) -> KeysValues | None:
        """Where a layer's keys and values will lie; None if they are copied."""


@runtime_checkable
class CodedMemory(Memory, Protocol):
    """A memory that may give what it shows in E4M3, for attention in eight bits."""

    def read_coded(self, layer: int) -> tuple[EncodedHeads, EncodedHeads] | None:
        """The keys and values of ``read``, in any order of tokens; None if it only gives those."""


@runtime_checkable
class Arriving(Protocol):
    """A tensor on its way between ranks."""

    def wait(self) -> Heads:
        """Wait for the tensor and return it."""


@runtime_checkable
class HeadExchange(Protocol):
    """An exchange between ranks: own tokens of all heads for all tokens of own heads."""

    def start(self, x: Heads) -> Arriving:
        """Start the exchange from this rank's tokens and all heads to all tokens and its heads."""

    def to_sequence(self, x: Heads) -> Heads:
        """Exchange attention's output back: from all tokens to this rank's tokens and all heads."""


class NoExchange:
    """The exchange of a single rank, which has all tokens and heads already."""

    def start(self, x: Heads) -> Arriving:
        return _Here(x)

    def to_sequence(self, x: Heads) -> Heads:
        return x


class _Here:
    def __init__(self, x: Heads) -> None:
        self._x = x

    def wait(self) -> Heads:
        return self._x


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionContext:
    """The inputs of self-attention beside the tokens; shared by all layers of a forward.

    Attributes:
        rotation: the rotation of queries and keys of this rank's tokens.
        mask: which tokens of the whole sequence see which; None if all see all, or with a memory.
        memory: the cache that the block is written to and read from; None for none.
        store: whether the memory keeps what this pass writes.
        key_rotation: the rotation of all keys that the memory gives, if it holds them unrotated.
        exchange: exchanges tokens for heads with the other ranks.
        copies: 2 for a sequence [clean | noisy], whose copies have the same text; else 1.
        kept: what keeps attention's output for the backward pass of a checkpoint; None if nothing.
    """

    rotation: Rotation
    mask: AnyMask | None = None
    memory: Memory | None = None
    store: bool = False
    key_rotation: Rotation | None = None
    exchange: HeadExchange = field(default_factory=NoExchange)
    copies: int = 1
    kept: KeptAttention | None = None


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm in the type of its input: computed in at least float32, rounded once."""

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        weight = self.weight.to(x.dtype)  # of one type the two have a kernel of their own
        return nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps).to(x.dtype)


def takes_codes() -> bool:
    """Whether an operation may be handed E4M3: no gradient flows, and no compiler looks on."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def takes_rows(*linears: nn.Module) -> bool:
    """Whether these linears multiply rows in E4M3, and their input may be handed to them so."""
    return takes_codes() and all(
        isinstance(linear, Float8Linear)
        and linear.config.scaling == "row"
        and not torch.is_autocast_enabled(linear.weight_codes.device.type)
        for linear in linears
    )


class _Projections(nn.Module):
    """The four linears and two norms that both attentions have; norms are over all heads.

    ``fused`` names the backend of norm and rotation.
    """

    def __init__(self, dim: int, num_heads: int, eps: float, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused = "auto"
        self.q = nn.Linear(dim, dim, dtype=torch.float32)
        self.k = nn.Linear(dim, dim, dtype=torch.float32)
        self.v = nn.Linear(dim, dim, dtype=torch.float32)
        self.o = nn.Linear(dim, dim, dtype=torch.float32)
        self.norm_q = RMSNorm(dim, eps, dtype=torch.float32) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim, eps, dtype=torch.float32) if qk_norm else nn.Identity()

    def heads(
        self,
        x: Float[Tensor, "batch tokens dim"],
        norm: nn.Module,
        rotation: Rotation | None = None,
        out: Heads | None = None,
    ) -> Heads:
        """Queries or keys of all heads: normalized, and rotated if there is a rotation."""
        weight, eps = (norm.weight, norm.eps) if isinstance(norm, RMSNorm) else (None, None)
        return rotate_heads(
            x,
            self.num_heads,
            weight=weight,
            eps=eps,
            angles=None if rotation is None else (rotation.cos, rotation.sin),
            out=out,
            backend=self.fused,
        )

    def split(self, x: Float[Tensor, "*batch tokens dim"]) -> Tensor:
        """[..., tokens, dim] -> [..., tokens, heads, head_dim]."""
        return x.unflatten(-1, (self.num_heads, -1))


class SelfAttention(_Projections):
    """Attention among latents' tokens: under a mask, over a memory, or all with all."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        layer: int,
        eps: float,
        qk_norm: bool,
        backend: str,
        masked_backend: str,
    ) -> None:
        super().__init__(dim, num_heads, eps, qk_norm)
        self.layer = layer
        self.backend = backend
        self.masked_backend = masked_backend
        self.quality = "lossless"

    def forward(
        self, x: Float[Tensor, "batch tokens dim"] | EncodedRows, context: AttentionContext
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend; ``x`` has this rank's tokens, mask and memory are for the whole sequence.

        Values are sent to other ranks while keys are computed, and keys while queries are.
        """
        exchange, memory, key_rotation = context.exchange, context.memory, context.key_rotation
        k_arriving, v_arriving = self._start_keys_values(x, context)
        q_arriving = exchange.start(self.heads(self.q(x), self.norm_q, context.rotation))
        q, k, v = q_arriving.wait(), k_arriving.wait(), v_arriving.wait()
        if memory is not None:
            memory.write(self.layer, k, v, clean=context.store)
            coded = self._read_coded(context)
            if coded is not None:
                out = attention_over_codes(q, *coded)
                return self.o(exchange.to_sequence(out).flatten(2))
            k, v = (held.to(q.dtype) for held in memory.read(self.layer))
        if key_rotation is not None:
            k = rotate(k, key_rotation)
        attend: Attend = partial(attention, backend=self.backend, quality=self.quality)
        if context.mask is not None:
            attend = partial(masked_attention, mask=context.mask, backend=self.masked_backend)
        out = attend(q, k, v) if context.kept is None else context.kept.attend(attend, q, k, v)
        return self.o(exchange.to_sequence(out).flatten(2))

    def _read_coded(self, context: AttentionContext) -> tuple[EncodedHeads, EncodedHeads] | None:
        """What the memory shows in E4M3, if attention is to be of eight bits and it has that."""
        eight_bits = self.backend == "fa3-fp8" or (self.backend, self.quality) == ("auto", "high")
        if not eight_bits or context.key_rotation is not None or not takes_codes():
            return None
        memory = context.memory
        return memory.read_coded(self.layer) if isinstance(memory, CodedMemory) else None

    def fill(
        self, x: Float[Tensor, "batch tokens dim"] | EncodedRows, context: AttentionContext
    ) -> None:
        """Write the keys and values of ``x`` to the memory, without attending."""
        assert context.memory is not None, "keys and values are stored in a memory"
        k, v = (arriving.wait() for arriving in self._start_keys_values(x, context))
        context.memory.write(self.layer, k, v, clean=context.store)

    def _start_keys_values(
        self, x: Tensor | EncodedRows, context: AttentionContext
    ) -> tuple[Arriving, Arriving]:
        """Keys and values on their way, made where the memory keeps them if it lets them."""
        v = self.split(self.v(x))
        v_arriving = context.exchange.start(v)
        room = self._room(v, context)
        rotation = context.rotation if context.key_rotation is None else None
        k = self.heads(self.k(x), self.norm_k, rotation, room)
        return context.exchange.start(k), v_arriving

    def _room(self, like: Heads, context: AttentionContext) -> Heads | None:
        """Where keys of this shape will lie in the memory; None if they are copied there."""
        memory = context.memory
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if not isinstance(memory, RoomyMemory) or not isinstance(context.exchange, NoExchange):
            return None
        room = memory.room(self.layer)
        fits = room is not None and (room[0].shape, room[0].dtype) == (like.shape, like.dtype)
        return room[0] if room is not None and fits else None


class CrossAttention(_Projections):
    """Attention from latents' tokens to the text of their segment; padding tokens attend too."""

    def __init__(
        self, dim: int, num_heads: int, *, eps: float, qk_norm: bool, backend: str
    ) -> None:
        super().__init__(dim, num_heads, eps, qk_norm)
        self.backend = backend

    def project_text(
        self, text: Float[Tensor, "batch segments length dim"]
    ) -> tuple[
        Float[Tensor, "batch segments length heads head_dim"],
        Float[Tensor, "batch segments length heads head_dim"],
    ]:
        """Keys and values of the embedded text: they do not depend on latents or timestep."""
        return self.split(self.norm_k(self.k(text))), self.split(self.v(text))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"] | EncodedRows,
        text: tuple[
            Float[Tensor, "batch segments length heads head_dim"],
            Float[Tensor, "batch segments length heads head_dim"],
        ],
        *,
        copies: int = 1,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Token ``i`` of each copy attends to segment ``i * segments // tokens`` of the text.

        ``copies`` is 2 for a sequence [clean | noisy], whose copies have the same segments.
        """
        k, v = text
        q = self.heads(self.q(x), self.norm_q)
        batch, tokens = q.shape[:2]
        segments = k.shape[1]
        if segments > 1:
            k, v = (y[:, None].expand(-1, copies, -1, -1, -1, -1).flatten(1, 2) for y in text)
            segments *= copies
        q = q.unflatten(1, (segments, -1))
        out = attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), backend=self.backend)
        return self.o(out.reshape(batch, tokens, -1))
