"""A block's own keys and values carry gradients through a cache, whose pages stay as they are."""

import pytest
import torch
from torch import Tensor

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.testing import assert_bitwise_equal
from longlive_models.gradient_memory import GradientMemory
from tests.core.kv_cache.codecs import ByteCodec

LAYOUT = CacheLayout(layers=2, heads=2, head_dim=4, tokens_per_page=6, samples=2)


def drawn(tokens: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(2, tokens, 2, 4) for _ in range(2))


def filled(codec, lengths: tuple[int, ...]) -> PagedKVCache:
    """A cache with blocks of these lengths, and the next one begun."""
    cache = PagedKVCache(LAYOUT, Window(pages=3, sink=1, shot_sink=0), codec)
    for block, tokens in enumerate(lengths):
        cache.begin_block(block, tokens=tokens)
        for layer in range(LAYOUT.layers):
            cache.write(layer, *drawn(tokens), clean=True)
        cache.commit()
    return cache


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), ByteCodec()])
@pytest.mark.parametrize("lengths", [(), (6, 6), (1, 6), (4, 6, 2, 6)])
@pytest.mark.parametrize("tokens", [6, 3])
def test_it_gives_what_the_cache_gives_with_gradients_of_the_block_itself(codec, lengths, tokens):
    cache, block = filled(codec, lengths), len(lengths)
    cache.begin_block(block, tokens=tokens)
    memory = GradientMemory(cache, block)
    for layer in range(LAYOUT.layers):
        own = [x.requires_grad_() for x in drawn(tokens)]
        memory.write(layer, *own, clean=False)
        made = memory.read(layer)
        with torch.no_grad():
            cache.write(layer, *own)
            for got, want in zip(made, cache.read(layer), strict=True):
                assert_bitwise_equal(got.detach(), want)
        weights = [torch.randn_like(x) for x in made]
        found = torch.autograd.grad(made, own, weights)
        place = sum(
            len(cache.frames(tokens_per_frame=1)[page])
            for page in cache.order[: cache.order.index(block)]
        )
        for gradient, weight in zip(found, weights, strict=True):
            assert_bitwise_equal(gradient, weight[:, place : place + tokens])
