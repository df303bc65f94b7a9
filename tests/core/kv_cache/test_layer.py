"""One layer of a cache, eager and compiled: the same bytes, and one graph for all blocks."""

import copy
import gc
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import PagedKVCache, PlainCodec, Window
from longlive_core.testing import assert_bitwise_equal
from tests.core.kv_cache.schedules import CODECS, POLICIES, SMALL, keys_and_values

ROOT = Path(__file__).parents[3]


def in_a_process(*arguments: str) -> None:
    run = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr[-3000:]


def compiled_blocks(*arguments: str) -> None:
    in_a_process("-m", "tests.core.kv_cache.compiled_blocks", *arguments)


def test_one_graph_serves_all_blocks():
    compiled_blocks("plain", "40", "blocks", "aot_eager", "9")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "blocks"])
@pytest.mark.parametrize("head_dim", ["40", "72"])
@pytest.mark.parametrize("codec", ["plain", "int8", "fp8", "nvfp4"])
def test_two_graphs_serve_fifty_blocks(codec, head_dim, how):
    compiled_blocks(codec, head_dim, how, "aot_eager", "50")


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["plain", "nvfp4"])
def test_inductor_reads_pages_in_place(codec):
    compiled_blocks(codec, "40", "blocks", "inductor", "12")


@given(POLICIES, CODECS, st.integers(1, 2), st.lists(st.integers(1, 4), max_size=7), st.data())
def test_what_compiled_code_reads_is_what_the_cache_reads(policy, codec, samples, lengths, data):
    """The operations themselves, without a compiler: windows in place, gathered, and of forks."""
    layout = replace(SMALL, samples=samples)
    cache, generator = PagedKVCache(layout, policy, codec), torch.Generator().manual_seed(0)
    forks = []
    for block, tokens in enumerate(lengths):
        cache.begin_block(block, tokens=tokens)
        if data.draw(st.booleans()):
            cache.begin_clean_pass()
        for number in range(layout.layers):
            k, v = (x[:, :tokens] for x in keys_and_values(layout, generator, codec.dtype))
            layer = cache.layer(number)
            torch.ops.longlive.cache_write(layer._ticket, k, v, True)
            want = [x.clone() for x in cache.read(number)]
            if layer._window is None:
                got = torch.ops.longlive.cache_gather(layer._ticket, layer._like, layer._tokens)
            else:
                torch.ops.longlive.cache_fill(layer._ticket, *layer._window)
                got = [x.transpose(0, 1) for x in layer._window]
            for ours, theirs in zip(got, want, strict=True):
                assert_bitwise_equal(ours.contiguous(), theirs.contiguous())
        cache.commit()
        if data.draw(st.booleans()):
            cache.start_shot(forget=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            forks.append(cache)
            cache = cache.fork()


def cache_of(codec=None) -> PagedKVCache:
    return PagedKVCache(SMALL, Window(), codec or PlainCodec(torch.float32))


PAGE = torch.zeros(SMALL.page_shape)


def test_a_layer_writes_and_reads_as_its_cache():
    cache = cache_of()
    cache.begin_block(0)
    cache.layer(1).write(PAGE + 1, PAGE + 2)
    for ours, theirs in zip(cache.layer(1).read(), cache.read(1), strict=True):
        assert_bitwise_equal(ours, theirs)
    with pytest.raises(ValueError, match="layer's layer is at most 1, got 2"):
        cache.layer(2)


def test_after_begin_clean_pass_every_write_is_kept():
    cache = cache_of()
    with pytest.raises(ValueError, match="begin_clean_pass outside a block"):
        cache.begin_clean_pass()
    cache.begin_block(0)
    cache.write(0, PAGE, PAGE)
    cache.begin_clean_pass()
    cache.write(0, PAGE, PAGE)
    with pytest.raises(ValueError, match=r"start_shot\(forget=True\) after clean writes"):
        cache.start_shot(forget=True)
    with pytest.raises(ValueError, match=r"without a clean write of layers \[1\]"):
        cache.commit()
    cache.write(1, PAGE, PAGE, clean=False)
    cache.commit()
    cache.begin_block(1)
    cache.write(0, PAGE, PAGE)
    with pytest.raises(ValueError, match=r"layers \[0, 1\]"):
        cache.commit()


def test_a_layer_keeps_no_cache_alive():
    cache = cache_of()
    layer = cache.layer(0)
    cache.begin_block(0)
    del cache
    assert gc.collect() >= 0
    with pytest.raises(ValueError, match="the cache of this layer is gone.*Hold the PagedKVCache"):
        layer.write(PAGE, PAGE)
    with pytest.raises(ValueError, match="compiled code asks for a PagedKVCache that is gone"):
        torch.ops.longlive.cache_write(layer._ticket, PAGE, PAGE, False)


@pytest.mark.parametrize("act", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_cache_is_forked_or_saved_and_not_copied(act):
    with pytest.raises(ValueError, match=r"not copied or pickled.*fork\(\) gives.*snapshot\(\)"):
        act(cache_of())


def test_a_layer_is_not_copied_with_its_module():
    with pytest.raises(ValueError, match=r"not copied.*fork\(\) the cache"):
        copy.deepcopy(cache_of().layer(0))


@pytest.mark.parametrize(
    ("keys", "codec"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
)
def test_the_two_types_of_sixteen_bits_are_not_mixed(keys, codec):
    cache = cache_of(PlainCodec(codec))
    cache.begin_block(0)
    page = PAGE.to(keys)
    with pytest.raises(
        ValueError, match=rf"{keys} for a codec that reads {codec}.*PlainCodec\({keys}"
    ):
        cache.write(0, page, page)
    cache.write(0, PAGE.to(codec), PAGE.to(codec))


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_none_is_refused(layer):
    cache = cache_of()
    cache.begin_block(0)
    with pytest.raises(ValueError, match="write's layer is"):
        cache.write(layer, PAGE, PAGE)


ERRORS = """
import torch
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window

layout = CacheLayout(layers=1, heads=2, head_dim=8, tokens_per_page=4)
cache = PagedKVCache(layout, Window(), PlainCodec(torch.float32))


def refused(act, message):
    try:
        act()
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError("nothing was refused")


refused(lambda: cache.begin_block(0, tokens=2.0), "begin_block's tokens is a whole number, got 2.0")


@torch.compile(fullgraph=True, backend="aot_eager")
def step(k, v):
    cache.write(0, k, v)
    keys, values = cache.read(0)
    return keys.sum() + values.sum()

page = torch.ones(1, 4, 2, 8)
with torch.no_grad():
    cache.begin_block(0)
    assert step(page, page) == 128
    cache.write(0, page, page, clean=True)
    cache.commit()
    refused(lambda: step(page, page), "write outside a block")
    cache.begin_block(1)
    assert step(page, page) == 256
    refused(lambda: step(page[:, :3], page[:, :3]), "this cache page is (1, 4, 2, 8)")
    step(page, page)
    cache.write(0, page, page, clean=True)
    cache.commit()
    cache.begin_block(2, tokens=3)
    assert step(page[:, :3], page[:, :3]) == 352
"""


def test_compiled_code_raises_what_the_cache_raises_and_reads_short_blocks():
    in_a_process("-c", ERRORS)
