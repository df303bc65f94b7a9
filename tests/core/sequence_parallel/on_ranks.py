"""What each rank does in the tests of the communicator. Every rank can draw the whole tensors."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from longlive_core.attention import attention
from longlive_core.sequence_parallel import (
    BalancedPartition,
    BalancedSP,
    PlainWireCodec,
    SequenceGroup,
    masked_mean,
)

BATCH, WIDTH = 2, 4


def whole(heads: int, tokens: int, seed: int) -> Tensor:
    """The same float64 tensor on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, tokens, heads, WIDTH, generator=generator, dtype=torch.float64)


def communicator(
    process_group: dist.ProcessGroup, sizes: dict[str, int], heads: int, wire: object = None
) -> BalancedSP:
    group = SequenceGroup.of(process_group)
    return BalancedSP(group, BalancedPartition(ranks=group.size, **sizes), heads=heads, wire=wire)


def own_tokens(sp: BalancedSP) -> slice:
    counts = sp.partition.tokens_by_rank
    start = sum(counts[: sp.group.rank])
    return slice(start, start + counts[sp.group.rank])


def exchange_and_back(
    process_group: dist.ProcessGroup, sizes: dict[str, int], heads: int
) -> dict[str, float]:
    """Forward and backward of ``f(to_heads(x))`` sent back, against doing it to the whole."""
    sp = communicator(process_group, sizes, heads)
    qkv = [whole(heads, sp.partition.tokens, seed).requires_grad_() for seed in range(3)]
    weight = whole(heads, sp.partition.tokens, 9)
    mine, heads_here = own_tokens(sp), slice(sp.heads.start, sp.heads.stop)

    want = mixed(*qkv)
    (want * weight).sum().backward()

    parts = [x.detach()[:, mine].clone().requires_grad_() for x in qkv]
    arrived = sp.to_heads(*parts)
    got = sp.to_sequence(mixed(*arrived))
    (got * weight[:, mine]).sum().backward()

    errors = {
        "to_heads": max(
            difference(a, x[:, :, heads_here]) for a, x in zip(arrived, qkv, strict=True)
        ),
        "to_sequence": difference(got, want[:, mine]),
        "gradient": max(
            difference(part.grad, x.grad[:, mine]) for part, x in zip(parts, qkv, strict=True)
        ),
    }
    return errors


def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Something like attention: per head, over all tokens."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", scores, v)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    assert a is not None and b is not None and a.shape == b.shape
    return float((a - b).abs().max())


def gathered(process_group: dist.ProcessGroup, sizes: dict[str, int]) -> dict[str, float]:
    """Frames of all ranks, and the gradient of a loss that differs on each rank."""
    sp = communicator(process_group, sizes, heads=sp_heads(process_group))
    generator = torch.Generator().manual_seed(3)
    frames = sp.partition.frames
    video = torch.randn(2, 3, frames, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(sp.group.size, *video.shape, generator=generator, dtype=torch.float64)
    own = sp.shard(video, dim=2).clone().requires_grad_()
    got = sp.gather(own, dim=2)
    (got * weights[sp.group.rank]).sum().backward()
    back = sp.gather(own.detach(), dim=-2)
    return {
        "gather": difference(got, video),
        "negative dim": difference(back, video),
        "gradient": difference(own.grad, sp.shard(weights.sum(0), dim=2)),
    }


def joint(process_group: dist.ProcessGroup, sizes: dict[str, int], heads: int) -> dict[str, float]:
    """Text that every rank holds beside its own tokens, against attention over the whole.

    Each rank's loss is of its own tokens and of a part of the text's outputs that differs by rank.
    """
    sp = communicator(process_group, sizes, heads)
    tokens, text = sp.partition.tokens, 5
    qkv = [whole(heads, text + tokens, seed).requires_grad_() for seed in range(3)]
    weight, weights = whole(heads, tokens, 9), [whole(heads, text, 20 + r) for r in range(4)]
    mine, rank = own_tokens(sp), sp.group.rank

    want = mixed(*qkv)
    loss = (want[:, text:] * weight).sum()
    (loss + sum((want[:, :text] * weights[r]).sum() for r in range(sp.group.size))).backward()

    words = [x.detach()[:, :text].clone().requires_grad_() for x in qkv]
    parts = [x.detach()[:, text:][:, mine].clone().requires_grad_() for x in qkv]
    video = sp.to_heads(*parts)
    pairs = zip([sp.own_heads(x) for x in words], video, strict=True)
    out = mixed(*(torch.cat(pair, 1) for pair in pairs))
    text_out, own_out = sp.gather_heads(out[:, :text]), sp.to_sequence(out[:, text:])
    ((own_out * weight[:, mine]).sum() + (text_out * weights[rank]).sum()).backward()

    return {
        "own": difference(own_out, want[:, text:][:, mine]),
        "text": difference(text_out, want[:, :text]),
        "gradient of own": max(
            difference(part.grad, x.grad[:, text:][:, mine])
            for part, x in zip(parts, qkv, strict=True)
        ),
        "gradient of text": max(
            difference(sp.group.sum(word.grad), x.grad[:, :text])
            for word, x in zip(words, qkv, strict=True)
        ),
    }


def wrong_heads_of_text(process_group: dist.ProcessGroup) -> list[object]:
    """The shape of this rank's heads, and what is said of other numbers of heads."""
    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 1}, 3)
    said: list[object] = [tuple(sp.own_heads(torch.zeros(1, 7, 3, 4)).shape)]
    for call, heads in ((sp.own_heads, 2), (sp.gather_heads, 3)):
        try:
            call(torch.zeros(1, 7, heads, 4))
        except ValueError as error:
            said.append(str(error))
    return said


def alone(process_group: dist.ProcessGroup, wire: object) -> tuple[Tensor, Tensor]:
    """What one rank makes of an exchange and the way back where it rounds as several do."""
    partition = BalancedPartition(frames=12, ranks=1, tokens_per_frame=1, copies=1)
    sp = BalancedSP(SequenceGroup(), partition, heads=5, wire=wire, round_alone=True)
    heads = sp.start(wide()).wait()
    return heads, sp.to_sequence(heads)


def sp_heads(process_group: dist.ProcessGroup) -> int:
    return dist.get_world_size(process_group)


def masked_means(
    process_group: dist.ProcessGroup, sizes: dict[str, int], masked_frames: tuple[int, ...]
) -> tuple[float, list[float], float]:
    """The masked mean, a parameter's averaged gradient, and the mean of an empty mask."""
    sp = communicator(process_group, sizes, heads=sp_heads(process_group))
    frames = sp.partition.frames
    inputs = torch.arange(1.0, frames + 1, dtype=torch.float64).expand(BATCH, -1)
    mask = torch.ones(BATCH, frames, dtype=torch.bool)
    mask[:, list(masked_frames)] = False
    parameter = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    own = sp.shard(inputs, dim=1)
    mean = sp.masked_mean((own * parameter[0] + parameter[1]).square(), sp.shard(mask, dim=1))
    (mean / 4).backward()
    assert parameter.grad is not None
    gradient = sp.group.sum(parameter.grad) / sp.group.size
    nothing = masked_mean(own, torch.zeros_like(own), sp.group)
    return float(mean.detach()), gradient.tolist(), float(nothing)


def largest(process_group: dist.ProcessGroup) -> list[float]:
    group = SequenceGroup.of(process_group)
    x = torch.tensor([float(group.rank), -float(group.rank)], requires_grad=True)
    result = group.max(x)
    assert not result.requires_grad
    return result.tolist()


def bytes_sent(process_group: dist.ProcessGroup, dtype: torch.dtype) -> int:
    """Bytes of q, k and v, the way back, and the gradients of all four."""
    sp = communicator(process_group, {"frames": 4, "tokens_per_frame": 3, "copies": 2}, heads=4)
    x = torch.zeros(1, 24 // sp.group.size, 4, 8, dtype=dtype, requires_grad=True)
    q, k, v = sp.to_heads(x, x, x)
    sp.to_sequence(q + k + v).sum().backward()
    return sp.bytes_sent


def in_flight_order(process_group: dist.ProcessGroup) -> list[str]:
    """What a wire is asked to do, in order: sends of all three come before any arrival."""
    calls: list[str] = []

    class Watched(PlainWireCodec):
        def encode(self, message: Tensor) -> Tensor:
            calls.append("send")
            return super().encode(message)

        def decode(self, wire: Tensor, dtype: torch.dtype) -> Tensor:
            calls.append("arrive")
            return super().decode(wire, dtype)

    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 1}, 2, Watched())
    x = torch.randn(1, 2, 2, 4, requires_grad=True)
    with (
        patch("torch.compiler.is_compiling", return_value=True),
        pytest.raises(ValueError, match="start in compiled code: .* Call to_heads"),
    ):
        sp.start(x)
    started = [sp.start(x * factor) for factor in (1.0, 2.0, 3.0)]
    calls.append("computed")
    arrived = [transfer.wait() for transfer in started]
    calls.append("backward")
    torch.stack(arrived).sum().backward()
    return [call for i, call in enumerate(calls) if i == 0 or call != calls[i - 1]]


def graph_is_freed(process_group: dist.ProcessGroup) -> bool:
    """Whether nothing but the output keeps the graph of an exchange alive."""
    import gc
    import weakref

    class Mark(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 1}, 2)
    y = Mark.apply(torch.randn(1, 2, 2, 4, requires_grad=True))
    node = weakref.ref(y.grad_fn)
    gc.disable()
    try:
        z = sp.start(y).wait()
        del y
        assert node() is not None
        del z
        return node() is None
    finally:
        gc.enable()


def rounded_with_gradient(process_group: dist.ProcessGroup) -> str:
    class Rounding(PlainWireCodec):
        carries_gradients = False

        def __repr__(self) -> str:
            return "Rounding()"

    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 1}, 2, Rounding())
    x = torch.randn(1, 2, 2, 4, requires_grad=True)
    with torch.no_grad():
        sp.start(x).wait()
    try:
        sp.start(x)
    except ValueError as error:
        return str(error)
    return ""


def one_fails(process_group: dist.ProcessGroup, failure: str) -> None:
    """Rank 1 goes wrong while rank 0 waits for it in an exchange."""
    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 1}, 2)
    if sp.group.rank == 1 and failure == "raises":
        raise ValueError("rank one has had enough")
    if sp.group.rank == 1 and failure == "dies":
        import os

        os._exit(7)
    if sp.group.rank == 1 and failure == "sleeps":
        import time

        time.sleep(60)
    sp.start(torch.zeros(1, 2, 2, 4)).wait()


def wide() -> Tensor:
    """Twelve tokens of five heads."""
    return torch.randn(2, 12, 5, 32, generator=torch.Generator().manual_seed(5))


def over_a_wire(process_group: dist.ProcessGroup, wire: object) -> tuple[Tensor, Tensor]:
    """This rank's heads of all tokens after one exchange, its tokens of all heads after two."""
    sp = communicator(process_group, {"frames": 12, "tokens_per_frame": 1, "copies": 1}, 5, wire)
    heads = sp.start(wide()[:, own_tokens(sp)]).wait()
    return heads, sp.to_sequence(heads)


def bytes_over_a_wire(process_group: dist.ProcessGroup, wire: object) -> int:
    sp = communicator(process_group, {"frames": 2, "tokens_per_frame": 5, "copies": 1}, 2, wire)
    sp.start(torch.zeros(1, 5, 2, 128, dtype=torch.bfloat16)).wait()
    return sp.bytes_sent


def grouped(process_group: dist.ProcessGroup, sizes: dict[str, int]) -> float:
    """Attention of eight query heads and four key heads, two exchanges, against the whole."""
    queries, keys = (communicator(process_group, sizes, heads) for heads in (8, 4))
    q, k, v = (whole(heads, queries.partition.tokens, seed) for seed, heads in enumerate((8, 4, 4)))
    own = own_tokens(queries)
    here = [queries.start(q[:, own])] + [keys.start(x[:, own]) for x in (k, v)]
    out = queries.to_sequence(attention(*(x.wait() for x in here), backend="reference"))
    return difference(out, attention(q, k, v, backend="reference")[:, own])


def fewer_heads(process_group: dist.ProcessGroup, sizes: dict[str, int]) -> None:
    sp = communicator(process_group, sizes, 8)
    sp.start(whole(4, sp.partition.tokens, 0)[:, own_tokens(sp)])
