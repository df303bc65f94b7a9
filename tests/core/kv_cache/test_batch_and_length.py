"""Any batch, any length: samples are independent, short blocks fit, films do not end."""

import time
from dataclasses import replace
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4PageCodec
from longlive_core.testing import assert_bitwise_equal
from tests.core.kv_cache.codecs import ByteCodec
from tests.core.kv_cache.schedules import CODECS, SMALL, keys_and_values


@settings(max_examples=12)
@given(CODECS, st.integers(2, 3), st.integers(1, 5), st.sets(st.integers(0, 4), max_size=2))
def test_a_sample_does_not_depend_on_its_batch_mates(codec, samples, blocks, cuts):
    layout = replace(SMALL, samples=samples)
    together = PagedKVCache(layout, Window(), codec)
    alone = [PagedKVCache(replace(SMALL, samples=1), Window(), codec) for _ in range(samples)]
    generator = torch.Generator().manual_seed(0)
    scale = 10.0 ** torch.arange(samples).reshape(-1, 1, 1, 1)  # loud and quiet mates
    for block in range(blocks):
        for cache in (together, *alone):
            cache.begin_block(block)
        for layer in range(layout.layers):
            k, v = (x * scale for x in keys_and_values(layout, generator, torch.float32))
            together.write(layer, k, v, clean=True)
            got = together.read(layer)
            for sample, cache in enumerate(alone):
                own = slice(sample, sample + 1)
                cache.write(layer, k[own], v[own], clean=True)
                for kind, want in enumerate(cache.read(layer)):
                    assert_bitwise_equal(got[kind][own].contiguous(), want.contiguous())
        for cache in (together, *alone):
            cache.commit()
            if block in cuts:
                cache.start_shot()


@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 7), st.sampled_from(["plain", "bytes"])
)
def test_heads_of_any_number_and_size(heads, head_dim, tokens, name):
    layout = CacheLayout(layers=1, heads=heads, head_dim=head_dim, tokens_per_page=tokens)
    codec = PlainCodec(torch.float32) if name == "plain" else ByteCodec()
    cache, generator = PagedKVCache(layout, Window(), codec), torch.Generator().manual_seed(0)
    for block in range(6):
        cache.begin_block(block)
        k, v = keys_and_values(layout, generator, torch.float32)
        cache.write(0, k, v, clean=True)
        got = cache.read(0)[0]
        place = cache.order.index(block) * tokens
        assert_bitwise_equal(got[:, place : place + tokens].contiguous(), k)
        cache.commit()


def test_sizes_that_a_codec_cannot_keep_are_refused_at_construction():
    layout = CacheLayout(layers=1, heads=3, head_dim=24, tokens_per_page=2)
    with pytest.raises(ValueError, match="cannot keep 3 heads of 24: 16 neighboring channels"):
        PagedKVCache(layout, Window(), NVFP4PageCodec())


@given(
    st.sampled_from([PlainCodec(torch.float32), ByteCodec()]),
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_shorter_block_is_read_without_its_padding(codec, lengths, gradients):
    """Each page has as many tokens as its block had; a page made again keeps its length."""
    cache, generator = PagedKVCache(SMALL, Window(), codec), torch.Generator().manual_seed(0)
    kept: list[torch.Tensor] = []
    for block, tokens in enumerate(lengths):
        cache.begin_block(block, tokens=tokens)
        for layer in range(SMALL.layers):
            k, v = (x[:, :tokens] for x in keys_and_values(SMALL, generator, torch.float32))
            k.requires_grad_(gradients)
            cache.write(layer, k, v, clean=True)
            got = cache.read(layer)[0]
            sizes = [lengths[page] for page in cache.order]
            parts = dict(zip(cache.order, got.split(sizes, dim=1), strict=True))
            assert_bitwise_equal(parts[block].detach().contiguous(), k.detach().contiguous())
            if layer == 0:
                for page, part in parts.items():
                    if page != block:
                        assert_bitwise_equal(part.detach().contiguous(), kept[page])
        assert (codec.workspace_pages(1) == 0) or got.shape[1] == sum(sizes)
        cache.commit()
        cache.begin_block(block + 1)
        cache.write(0, *[torch.zeros(SMALL.page_shape)] * 2)
        sizes = [(*lengths[: block + 1], 4)[page] for page in cache.order]
        shown = dict(zip(cache.order, cache.read(0)[0].split(sizes, dim=1), strict=True))
        kept = [shown[page].clone() if page in shown else x for page, x in enumerate(kept)]
        kept.append(shown[block].clone())


def test_a_block_of_no_or_too_many_tokens_is_refused():
    cache = PagedKVCache(SMALL, Window(), PlainCodec())
    for tokens in (0, 5):
        with pytest.raises(ValueError, match=rf"tokens is.*got {tokens}: a page has room"):
            cache.begin_block(0, tokens=tokens)
    cache.begin_block(0, tokens=2)
    page = torch.zeros(SMALL.page_shape)
    with pytest.raises(ValueError, match=r"page is \(2, 2, 2, 8\).*got keys \(2, 4, 2, 8\)"):
        cache.write(0, page, page)


def test_two_thousand_blocks_take_constant_memory_and_time():
    """Cuts and all; the last quarter's median block is as fast as the second's, within noise."""
    layout, codec = CacheLayout(layers=1, heads=1, head_dim=4, tokens_per_page=2), ByteCodec()
    cache, sizes, times = PagedKVCache(layout, Window(), codec), set(), []
    page = torch.ones(layout.page_shape)
    for block in range(2000):
        start = time.perf_counter()
        cache.begin_block(block)
        cache.write(0, page, page, clean=True)
        keys, _ = cache.read(0)
        cache.commit()
        if block % 50 == 7:
            cache.start_shot(forget=block % 100 == 7)
        times.append(time.perf_counter() - start)
        if block % 20 == 0:
            sizes.add(sum(x.nbytes for x in cache.tensors().values()))
        assert keys.shape[1] <= 4 * layout.tokens_per_page
    assert sizes == {layout.bytes(codec, 4).total}
    assert len(cache.pages) <= 4
    assert median(times[1500:]) < 3 * median(times[500:1000])
