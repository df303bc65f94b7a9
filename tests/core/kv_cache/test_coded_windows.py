"""Windows in E4M3: what is read, whatever blocks, cuts, forks and codecs there are."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.eight_bit import EncodedHeads, decode_heads, encode_window
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4PageCodec
from longlive_core.testing import assert_bitwise_equal, nan_filled_empty
from tests.core.kv_cache.codecs import ByteCodec
from tests.core.kv_cache.schedules import CODECS, POLICIES, SMALL

LENGTHS = st.integers(1, SMALL.tokens_per_page)
CUTS = st.sampled_from([False, False, True, "forget"])
STEPS = (1.0, 0.2, 9.0)
"""How loud the block's own keys are in its steps, the clean pass being the last."""


def own_of(layout: CacheLayout, tokens: int, seed: int, loud: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (layout.samples, tokens, layout.heads, layout.head_dim)
    return [loud * torch.randn(shape, generator=generator) for _ in range(2)]


def write(cache: PagedKVCache, layer: int, own: list[torch.Tensor], **how: bool) -> None:
    cache.write(layer, *(x.to(cache.codec.dtype) for x in own), **how)


def own_last(cache: PagedKVCache, x: torch.Tensor, page: int, lengths: dict[int, int]):
    """What ``read`` gave, the block's own tokens last."""
    parts = dict(zip(cache.order, x.split([lengths[one] for one in cache.order], 1), strict=True))
    own = parts.pop(page)
    return torch.cat((*parts.values(), own), 1)


def assert_near(got: EncodedHeads, want: torch.Tensor) -> None:
    step = got.scales[:, None, :, None] * 2.0**-9
    error = (decode_heads(*got) - want.float()).abs()
    assert (error <= torch.maximum(want.float().abs() * 2.0**-4, step) * 1.001).all()


def run_page(cache: PagedKVCache, page: int, lengths: dict[int, int], cut: object = False) -> None:
    """Steps and clean pass of the page that was begun; each read is held against the plain one."""
    last = len(STEPS) - 1
    for step, loud in enumerate(STEPS):
        if step == last and cut == "forget":
            cache.start_shot(forget=True)
        for layer in range(cache.layout.layers):
            own = own_of(cache.layout, lengths[page], 97 * page + step, loud)
            write(cache, layer, own, clean=step == last)
            coded = cache.read_coded(layer)
            for found, x in zip(coded, cache.read(layer), strict=True):
                assert_near(found, own_last(cache, x, page, lengths))
    cache.commit()


@settings(max_examples=25)
@given(POLICIES, CODECS, st.lists(st.tuples(LENGTHS, CUTS), min_size=1, max_size=5))
def test_a_window_is_what_is_read_whatever_is_seen(policy, codec, blocks):
    with nan_filled_empty():
        cache = PagedKVCache(replace(SMALL, layers=1), policy, codec, windows=True)
        lengths: dict[int, int] = {}
        for block, (tokens, cut) in enumerate(blocks):
            lengths[block] = tokens
            cache.begin_block(block, tokens=tokens)
            run_page(cache, block, lengths, cut)
            if cut is True:
                cache.start_shot()
        page = cache.pages[0]
        cache.begin_rewrite(page)
        run_page(cache, page, lengths)


def codes_of_next(cache: PagedKVCache) -> list[torch.Tensor]:
    """Codes and scales of a block's last read of each layer."""
    found = []
    cache.begin_block(cache.blocks)
    for step, loud in enumerate(STEPS):
        for layer in range(cache.layout.layers):
            own = own_of(cache.layout, cache.layout.tokens_per_page, step, loud)
            write(cache, layer, own, clean=step == len(STEPS) - 1)
            keys, values = cache.read_coded(layer)
            if step == len(STEPS) - 1:
                found += [keys.codes.float(), keys.scales, values.codes.float(), values.scales]
    cache.commit()
    return found


def cache_of_blocks(codec, blocks: int = 5, layout: CacheLayout = SMALL) -> PagedKVCache:
    cache = PagedKVCache(layout, Window(), codec, windows=True)
    lengths = dict.fromkeys(range(blocks), layout.tokens_per_page)
    for block in range(blocks):
        cache.begin_block(block)
        run_page(cache, block, lengths)
    return cache


@pytest.mark.parametrize(
    "codec", [PlainCodec(torch.float32), ByteCodec(), NVFP4PageCodec(dtype=torch.float32)], ids=repr
)
def test_a_block_has_the_same_codes_whatever_ran_before_it(codec):
    """In the cache, in a fork, in one restored; after a block that was louder and given up."""
    cache = cache_of_blocks(codec)
    fork, abandoned = cache.fork(), cache.fork()
    other = PagedKVCache(SMALL, Window(), codec, windows=True)
    codes_of_next(other)
    other.restore(cache.snapshot())
    abandoned.begin_block(cache.blocks)
    loud = own_of(SMALL, SMALL.tokens_per_page, 5, 1e6)
    for layer in range(SMALL.layers):
        write(abandoned, layer, loud)
        abandoned.read_coded(layer)
    want = codes_of_next(cache)
    for one in (fork, other, abandoned):
        for got, expected in zip(codes_of_next(one), want, strict=True):
            assert_bitwise_equal(got, expected)


def test_a_rank_s_heads_have_the_codes_that_they_have_among_all():
    """A rank of some holds a part of the heads: each has a scale of its own."""
    whole, half = cache_of_blocks(PlainCodec(torch.float32)), replace(SMALL, heads=1)
    rank = PagedKVCache(half, Window(), PlainCodec(torch.float32), windows=True)
    own = own_of(SMALL, SMALL.tokens_per_page, 0)
    whole.reset()
    for cache, heads in ((whole, slice(None)), (rank, slice(1, 2))):
        for block in range(2):
            cache.begin_block(block)
            for layer in range(SMALL.layers):
                write(cache, layer, [x[:, :, heads] for x in own], clean=True)
                found = cache.read_coded(layer)
            cache.commit()
        if cache is whole:
            want = found
    for got, expected in zip(found, want, strict=True):
        assert_bitwise_equal(got.codes.float(), expected.codes[:, :, 1:].float())
        assert_bitwise_equal(got.scales, expected.scales[:, 1:])


def test_the_past_is_encoded_once_a_block(monkeypatch):
    cache, encoded = cache_of_blocks(PlainCodec(torch.float32)), []

    def counted(codes, own, past, scales):
        encoded.append(len(past))
        return encode_window(codes, own, past, scales)

    monkeypatch.setattr("longlive_core.kv_cache.coded_windows.encode_window", counted)
    codes_of_next(cache)
    pages_of_layers = [3] * 2 * SMALL.layers
    assert encoded == pages_of_layers + [0] * (len(STEPS) - 1) * 2 * SMALL.layers


def test_its_memory_is_what_the_layout_predicts_and_is_given_back():
    cache = cache_of_blocks(PlainCodec(torch.float32))
    pages = cache.layout.bytes(cache.codec, 4)
    assert cache.own_bytes == pages and pages.windows == 0
    cache.begin_block(cache.blocks)
    for layer in range(SMALL.layers):
        write(cache, layer, own_of(SMALL, SMALL.tokens_per_page, 0), clean=True)
        cache.read_coded(layer)
    predicted = cache.layout.bytes(cache.codec, 4, windows=True)
    assert predicted.windows == 2 * SMALL.layers * 4 * 2 * 4 * 2 * 8
    assert cache.own_bytes == predicted
    assert predicted.total == sum(x.untyped_storage().nbytes() for x in cache.tensors().values())
    cache.commit()
    assert cache.own_bytes == pages


def test_the_large_model_s_windows_are_half_of_its_cache():
    layout = CacheLayout(layers=30, heads=24, head_dim=128, tokens_per_page=7040)
    taken = layout.bytes(PlainCodec(), Window().capacity, windows=True)
    assert 2 * taken.windows == taken.pages == 30 * 2 * 28160 * 24 * 128 * 2


def test_a_cache_without_windows_gives_none_and_what_is_not_written_is_refused():
    cache = PagedKVCache(SMALL, Window(), PlainCodec())
    assert cache.read_coded(0) is None
    cache = PagedKVCache(SMALL, Window(), PlainCodec(), windows=True)
    with pytest.raises(ValueError, match="read_coded outside a block"):
        cache.read_coded(0)
    cache.begin_block(0)
    with pytest.raises(ValueError, match=r"read\(1\) before write\(1\) in this step"):
        cache.read_coded(1)


def test_a_window_that_was_begun_in_inference_mode_goes_on_without_it():
    cache, other = (cache_of_blocks(PlainCodec(torch.float32), 1) for _ in range(2))
    found = []
    for one, inference in ((cache, True), (other, False)):
        one.begin_block(1)
        for mode, loud in ((inference, 1.0), (False, 9.0)):
            with torch.inference_mode(mode), torch.no_grad():
                write(one, 0, own_of(SMALL, SMALL.tokens_per_page, 0, loud))
                keys, _ = one.read_coded(0)
        found.append(keys)
    assert_bitwise_equal(found[0].codes.float(), found[1].codes.float())
