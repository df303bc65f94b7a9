"""Attention's contracts: who asks the memory and the exchange for what."""

import pytest
import torch
from torch import Tensor, nn

from longlive_models.wan.attention import (
    Arriving,
    AttentionContext,
    CrossAttention,
    NoExchange,
    RMSNorm,
    SelfAttention,
)
from longlive_models.wan.rope import rotation

DIM, HEADS = 24, 2


def self_attention() -> SelfAttention:
    torch.manual_seed(1)
    return SelfAttention(
        DIM,
        HEADS,
        layer=3,
        eps=1e-6,
        qk_norm=True,
        backend="reference",
        masked_backend="reference",
    )


def context(**given: object) -> AttentionContext:
    at = torch.arange(2, dtype=torch.float64)[None]
    return AttentionContext(rotation=rotation(at, (1, 2), DIM // HEADS), **given)


class Recorder:
    """A memory that remembers the calls and shows one earlier page before the block's own."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.past = torch.randn(1, 4, HEADS, DIM // HEADS)

    def write(self, layer: int, k: Tensor, v: Tensor, *, clean: bool) -> None:
        self.calls.append(("write", layer, clean))
        self.own = (k, v)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        self.calls.append(("read", layer))
        return tuple(torch.cat((self.past, x), dim=1) for x in self.own)


class Reversed:
    """An exchange that reverses tokens on the way in and on the way out."""

    def start(self, x: Tensor) -> Arriving:
        return NoExchange().start(x.flip(1))

    def to_sequence(self, x: Tensor) -> Tensor:
        return x.flip(1)


def test_memory_is_written_then_read_by_layer():
    memory, attention, x = Recorder(), self_attention(), torch.randn(1, 4, DIM)
    seen = attention(x, context(memory=memory, store=True))
    assert memory.calls == [("write", 3, True), ("read", 3)]
    assert not torch.allclose(seen, attention(x, context()))  # the earlier page was attended to
    attention(x, context(memory=memory))
    assert memory.calls[2:] == [("write", 3, False), ("read", 3)]


def test_memory_may_hold_another_dtype_than_the_queries():
    memory, attention, x = Recorder(), self_attention(), torch.randn(1, 4, DIM)
    memory.past = memory.past.bfloat16()
    want = attention(x, context(memory=memory))
    memory.read = lambda layer: tuple(
        torch.cat((memory.past, own.bfloat16()), dim=1) for own in memory.own
    )
    got = attention(x, context(memory=memory))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0, atol=0.02)


def test_memory_takes_rotated_keys_and_plain_values():
    memory, attention, x = Recorder(), self_attention(), torch.randn(1, 4, DIM)
    attention(x, context(memory=memory))
    keys = attention.split(attention.norm_k(attention.k(x)))
    assert not torch.allclose(memory.own[0][:, 2:], keys[:, 2:])
    torch.testing.assert_close(memory.own[0][:, :1], keys[:, :1])  # frame 0, token 0: no rotation
    torch.testing.assert_close(memory.own[1], attention.split(attention.v(x)))


def test_an_exchange_that_only_reorders_tokens_changes_nothing():
    x = torch.randn(2, 4, DIM)
    attention = self_attention()
    reordered = attention(x, context(exchange=Reversed()))
    torch.testing.assert_close(reordered, attention(x, context()))


def test_each_token_attends_to_the_text_of_its_segment():
    torch.manual_seed(2)
    attention = CrossAttention(DIM, HEADS, eps=1e-6, qk_norm=True, backend="reference")
    x, text = torch.randn(2, 12, DIM), torch.randn(2, 3, 5, DIM)
    got = attention(x, attention.project_text(text), copies=2)
    for token in range(12):
        segment = token % 6 // 2
        own = attention.project_text(text[:, segment : segment + 1])
        torch.testing.assert_close(got[:, token], attention(x[:, token : token + 1], own)[:, 0])


@pytest.mark.parametrize("autocast", [False, True])
def test_the_norm_rounds_once_and_keeps_the_type_of_what_it_is_given(autocast):
    norm = RMSNorm(DIM, 1e-6)
    nn.init.normal_(norm.weight)
    norm.weight.data = norm.weight.data.bfloat16().float()
    x = torch.randn(3, 5, DIM).bfloat16()
    wide = x.double()
    want = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    with torch.autocast("cpu", enabled=autocast):
        got = norm(x)
    assert got.dtype == torch.bfloat16
    assert (got == want.bfloat16()).float().mean() > 0.99  # float32 may fall on a tie's other side
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=0)
    torch.testing.assert_close(norm(x.float()).double(), want, rtol=1e-5, atol=1e-7)
