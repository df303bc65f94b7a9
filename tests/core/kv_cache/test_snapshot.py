"""A snapshot is plain parts: it goes through a file, to another device, and into its like alone."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import (
    CacheSnapshot,
    Int8PageCodec,
    PagedKVCache,
    PlainCodec,
    Window,
)
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule
from longlive_core.testing import assert_bitwise_equal
from tests.core.kv_cache.schedules import CODECS, POLICIES, SMALL, EveryOther, Oracle, run_block


def filled(cache: PagedKVCache, blocks: int, cuts: frozenset[int] = frozenset()) -> Oracle:
    oracle, generator = Oracle(), torch.Generator().manual_seed(blocks)
    for block in range(blocks):
        run_block(cache, oracle, generator, 0, "forget" if block in cuts else False)
    return oracle


@settings(max_examples=10)
@given(POLICIES, CODECS, st.integers(0, 8), st.frozensets(st.integers(0, 8), max_size=2))
def test_a_film_goes_on_from_a_file(policy, codec, blocks, cuts):
    layout = replace(SMALL, layers=1)
    cache, other = (PagedKVCache(layout, policy, codec) for _ in range(2))
    oracle = filled(cache, blocks, cuts)
    snapshot = cache.snapshot()
    data, text = save(snapshot.tensors), json.dumps(snapshot.to_dict())
    other.restore(CacheSnapshot.from_dict(json.loads(text), load(data)))
    assert (other.pages, other.blocks, other.shot_start) == (
        cache.pages,
        cache.blocks,
        cache.shot_start,
    )
    for each, its_oracle in ((cache, oracle.copy()), (other, oracle)):
        generator = torch.Generator().manual_seed(99)
        for _ in range(2):
            run_block(each, its_oracle, generator, 1, True)
    ours, theirs = cache.snapshot().tensors, other.snapshot().tensors
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        assert_bitwise_equal(x, theirs[name], name)


def test_a_snapshot_holds_no_more_than_the_pages_that_are_held():
    cache = PagedKVCache(SMALL, Window(), Float8PageCodec())
    filled(cache, 2)
    size = sum(x.nbytes for x in cache.snapshot().tensors.values())
    assert size == SMALL.bytes(cache.codec, 2).pages
    assert all(x.is_contiguous() for x in cache.snapshot().tensors.values())


@dataclass
class Other(EveryOther):
    """A policy with a field of its own."""

    stride: int = 2


@pytest.mark.parametrize(
    ("layout", "policy", "codec", "message"),
    [
        ({"heads": 4}, Window(), PlainCodec(), r"layout CacheLayout\(.*heads=2.*there.*heads=4"),
        (
            {"rotated": False},
            Window(),
            PlainCodec(),
            "layout .*rotated=True.* there, .*rotated=False",
        ),
        ({}, Window(pages=5), PlainCodec(), r"policy Window\(pages=4.*there, Window\(pages=5"),
        ({}, EveryOther(), PlainCodec(), r".*there, EveryOther\(\) here"),
        ({}, Window(), PlainCodec(torch.float16), "codec .*bfloat16.* there, .*float16"),
        ({}, Window(), NVFP4PageCodec(), "codec .*plain.* there, .*nvfp4"),
    ],
)
def test_a_snapshot_of_another_cache_is_refused_and_nothing_is_lost(layout, policy, codec, message):
    cache = PagedKVCache(SMALL, Window(), PlainCodec())
    filled(cache, 3)
    other = PagedKVCache(replace(SMALL, **layout), policy, codec)
    filled(other, 1)
    with pytest.raises(ValueError, match=rf"the snapshot is of another cache: {message}"):
        other.restore(cache.snapshot())
    assert (other.blocks, other.pages) == (1, (0,))


def test_the_rule_of_a_codec_and_the_fields_of_a_policy_count():
    snapshot = PagedKVCache(SMALL, Other(stride=2), NVFP4PageCodec()).snapshot()
    with pytest.raises(ValueError, match="stride=2.*there.*stride=3"):
        PagedKVCache(SMALL, Other(stride=3), NVFP4PageCodec()).restore(snapshot)
    codec = NVFP4PageCodec(rule=ScaleRule.AMAX_6)
    with pytest.raises(ValueError, match="codec .* there, .* here"):
        PagedKVCache(SMALL, Other(), codec).restore(snapshot)


def test_a_snapshot_that_lost_tensors_is_refused():
    cache = PagedKVCache(SMALL, Window(), PlainCodec())
    filled(cache, 3)
    snapshot = cache.snapshot()
    del snapshot.tensors["1.2.keys.page"]
    with pytest.raises(ValueError, match=r"lacks 1\.2\.keys\.page \(1 of 12 tensors\).*empty now"):
        cache.restore(snapshot)
    assert (cache.blocks, cache.pages) == (0, ())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="moves a cache to a GPU and back")
@pytest.mark.parametrize("codec", [PlainCodec(), Float8PageCodec()], ids=repr)
def test_a_snapshot_goes_to_another_device(codec):
    cache, there = (PagedKVCache(SMALL, Window(), codec, device) for device in ("cpu", "cuda"))
    filled(cache, 5)
    there.restore(cache.snapshot())
    theirs = there.snapshot().tensors
    for name, x in cache.snapshot().tensors.items():
        assert_bitwise_equal(theirs[name], x, name)


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), Int8PageCodec()], ids=repr)
def test_short_pages_are_short_after_a_file(codec):
    """JSON's keys are text, and a page that is read whole shows padding as if it were keys."""
    layout = replace(SMALL, head_dim=16)
    cache, other = (PagedKVCache(layout, Window(), codec) for _ in range(2))

    def write(each: PagedKVCache, block: int, tokens: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(block)
        samples, _, heads, dim = layout.page_shape
        each.begin_block(block, tokens=tokens)
        seen = []
        for layer in range(layout.layers):
            k, v = (torch.randn(samples, tokens, heads, dim, generator=generator) for _ in "kv")
            each.write(layer, k, v, clean=True)
            seen += [x.clone() for x in each.read(layer)]
        each.commit()
        return seen

    for block, tokens in enumerate((2, 4, 1)):
        write(cache, block, tokens)
    snapshot = cache.snapshot()
    assert snapshot.short == {0: 2, 2: 1}
    text = json.dumps(snapshot.to_dict())
    read = CacheSnapshot.from_dict(json.loads(text), load(save(snapshot.tensors)))
    assert read.short == snapshot.short
    other.restore(read)
    assert other.snapshot().short == snapshot.short
    wanted, got = write(cache, 3, 3), write(other, 3, 3)
    assert wanted[0].shape[1] == 2 + 4 + 1 + 3
    for ours, theirs in zip(got, wanted, strict=True):
        assert_bitwise_equal(ours, theirs)
