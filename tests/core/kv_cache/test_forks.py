"""Forks share what both hold: each goes on as a deep copy would, in the memory it needs."""

import gc
from dataclasses import replace
from threading import Thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import CacheLayout, PageCodec, PagedKVCache, PlainCodec, Window
from longlive_core.testing import assert_bitwise_equal, nan_filled_empty
from tests.core.kv_cache.codecs import ByteCodec
from tests.core.kv_cache.schedules import (
    CODECS,
    POLICIES,
    SMALL,
    Oracle,
    keys_and_values,
    rewrite,
    run_block,
)


def page_bytes(cache: PagedKVCache) -> int:
    """What is allocated for the pages of a cache and of its forks."""
    tensors = cache.tensors().items()
    return sum(x.untyped_storage().nbytes() for name, x in tensors if "workspace" not in name)


def one_page(cache: PagedKVCache) -> int:
    return cache.layout.bytes(cache.codec, 1).pages


def as_copied(cache: PagedKVCache) -> PagedKVCache:
    """A cache of its own memory that has the same pages in the same slots."""
    other = PagedKVCache(cache.layout, cache.policy, cache.codec)
    other.restore(cache.snapshot())
    return other


def cache_of_blocks(codec: PageCodec, blocks: int) -> tuple[PagedKVCache, Oracle, torch.Generator]:
    """A cache of some blocks, what is known of it, and the generator that goes on."""
    cache, oracle = PagedKVCache(SMALL, Window(), codec), Oracle()
    generator = torch.Generator().manual_seed(0)
    for _ in range(blocks):
        run_block(cache, oracle, generator, 0, False)
    return cache, oracle, generator


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), st.integers(0, 9), st.sampled_from([False, True, "forget"])),
        st.tuples(st.just("rewrite"), st.integers(0, 9), st.integers(0, 5)),
        st.tuples(st.sampled_from(["fork", "drop", "reset", "restore"]), st.integers(0, 9)),
    ),
    max_size=10,
)


@given(POLICIES, CODECS, ACTIONS)
def test_a_family_of_forks_goes_on_as_copies_would(policy, codec, actions):
    """Every fork beside a copy in memory of its own, given the same; read order included."""
    layout = replace(SMALL, layers=1)
    with nan_filled_empty():
        cache = PagedKVCache(layout, policy, codec)
        family = [(cache, as_copied(cache), Oracle())]
        saved = (cache.snapshot(), Oracle())
        del cache
        for seed, (name, which, *arguments) in enumerate(actions):
            place = which % len(family)
            fork, copied, oracle = family[place]
            other = oracle.copy()
            match name:
                case "block" | "rewrite":
                    for each, its_oracle in ((copied, other), (fork, oracle)):
                        generator = torch.Generator().manual_seed(seed)
                        if name == "block":
                            run_block(each, its_oracle, generator, 1, *arguments)
                        elif held := each.pages:
                            page = held[arguments[0] % len(held)]
                            rewrite(each, its_oracle, generator, page, 0)
                case "fork":
                    family.append((fork.fork(), as_copied(copied), other))
                case "drop" if len(family) > 1:
                    del family[place]
                case "reset":
                    fork.reset()
                    copied.reset()
                    family[place] = (fork, copied, Oracle())
                case "restore":
                    fork.restore(saved[0])
                    copied.restore(saved[0])
                    family[place] = (fork, copied, saved[1].copy())
            del fork, copied
        for fork, copied, oracle in family:
            assert fork.snapshot().pages == copied.snapshot().pages
            generator = torch.Generator().manual_seed(0)
            run_block(fork, oracle.copy(), generator, 1, False)
            generator = torch.Generator().manual_seed(0)
            run_block(copied, oracle, generator, 1, False)
            ours, theirs = (x.snapshot().tensors for x in (fork, copied))
            assert ours.keys() == theirs.keys()
            for name, x in ours.items():
                assert_bitwise_equal(x, theirs[name], name)


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), ByteCodec()], ids=repr)
def test_forks_take_the_shared_pages_once_and_what_each_wrote(codec):
    parent, oracle, generator = cache_of_blocks(codec, 4)
    lone, page = page_bytes(parent), one_page(parent)
    assert lone == 4 * page == parent.own_bytes.pages
    forks = [parent.fork() for _ in range(3)]
    assert page_bytes(parent) == lone
    assert [fork.own_bytes.pages for fork in forks] == [0, 0, 0]
    for blocks, fork in enumerate(forks):
        its_oracle = oracle.copy()
        for _ in range(blocks):
            run_block(fork, its_oracle, generator, 0, False)
    assert [fork.own_bytes.pages for fork in forks] == [0, page, 2 * page]
    assert page_bytes(parent) == lone + 3 * page
    assert [fork.own_bytes.scratch for fork in forks] == [parent.own_bytes.scratch] * 3


def test_what_a_fork_wrote_is_given_back_with_it():
    parent, oracle, generator = cache_of_blocks(PlainCodec(), 4)
    lone, fork, its_oracle = page_bytes(parent), parent.fork(), oracle.copy()
    for _ in range(6):
        run_block(fork, its_oracle, generator, 0, False)
    assert page_bytes(parent) == lone + 3 * one_page(parent)  # the film's first page is shared
    del fork
    gc.collect()
    assert page_bytes(parent) == lone


def test_a_fork_that_is_collected_while_memory_is_given_back_is_no_error():
    parent, oracle, generator = cache_of_blocks(PlainCodec(), 4)
    fork = parent.fork()
    run_block(fork, oracle.copy(), generator, 0, False)
    pool, calls = fork._references.pool, []

    class Collected(dict):
        """The further chunks, among whose reading a fork ends: then its pool trims as well."""

        def __iter__(self):
            yield from list(super().__iter__())
            if not calls:
                calls.append("trim")
                pool.trim()

    pool._more = Collected(pool._more)
    assert len(pool._more) == 1
    fork._references.keep_only(())
    pool.trim()
    assert calls and not pool._more


def test_a_fork_that_is_left_alone_reads_in_place_again():
    parent, oracle, generator = cache_of_blocks(PlainCodec(torch.float32), 4)
    fork = parent.fork()
    run_block(fork, oracle, generator, 0, False)
    del parent
    gc.collect()
    k, v = keys_and_values(SMALL, generator, torch.float32)
    for block in range(5, 9):
        fork.begin_block(block)
        for layer in range(SMALL.layers):
            fork.write(layer, k, v, clean=True)
        stores = {x.data_ptr() for x in fork.tensors().values() if x.numel()}
        views = fork.read(0)[0].data_ptr() in stores
        fork.commit()
    assert views
    assert page_bytes(fork) == 4 * one_page(fork)


def test_a_page_that_two_forks_share_is_not_copied_home_for_one_of_them():
    parent, oracle, generator = cache_of_blocks(PlainCodec(), 4)
    fork = parent.fork()
    run_block(fork, oracle.copy(), generator, 0, False)
    other = fork.fork()
    assert max(fork._references.places) >= fork._references.pool.slots
    del parent
    gc.collect()
    fork.tensors()  # brings pages home that belong to one cache alone
    assert fork.own_bytes.pages == other.own_bytes.pages == 0
    assert fork._references.places == other._references.places


def test_a_rewrite_in_a_fork_leaves_the_parent_s_page():
    parent, oracle, generator = cache_of_blocks(PlainCodec(torch.float32), 3)
    fork, its_oracle = parent.fork(), oracle.copy()
    rewrite(fork, its_oracle, generator, 1, 0)
    assert fork.own_bytes.pages == one_page(fork)
    run_block(parent, oracle, generator, 0, False)
    run_block(fork, its_oracle, generator, 0, False)


def test_forks_go_on_in_threads_of_their_own():
    layout = CacheLayout(layers=1, heads=1, head_dim=8, tokens_per_page=4)
    parent, oracle = PagedKVCache(layout, Window(), ByteCodec()), Oracle()
    for _ in range(3):
        run_block(parent, oracle, torch.Generator().manual_seed(0), 0, False)
    done = []

    def go_on(fork: PagedKVCache, its_oracle: Oracle, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for block in range(20):
            run_block(fork, its_oracle, generator, 1, block == 5)
        done.append(seed)

    threads = [Thread(target=go_on, args=(parent.fork(), oracle.copy(), seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), ByteCodec()], ids=repr)
def test_a_cache_whose_fork_is_gone_takes_what_its_layout_says(codec):
    """A page that is not written again, a sink, would else take an extent for good."""
    parent, oracle, generator = cache_of_blocks(codec, 3)
    fork = parent.fork()
    rewrite(parent, oracle, generator, 0, 0)  # the sink's page, in a place of its own
    run_block(parent, oracle, generator, 0, False)
    before = parent.snapshot().tensors
    assert page_bytes(parent) > SMALL.bytes(codec, 4).pages
    del fork
    gc.collect()
    assert page_bytes(parent) == SMALL.bytes(codec, 4).pages
    after = parent.snapshot().tensors
    for name, x in before.items():
        assert_bitwise_equal(after[name], x, name)
    for _ in range(4):
        run_block(parent, oracle, generator, 0, False)
    assert sum(x.nbytes for x in parent.tensors().values()) == SMALL.bytes(codec, 4).total


def test_pages_do_not_move_while_a_block_is_made():
    parent, oracle, generator = cache_of_blocks(PlainCodec(torch.float32), 4)
    fork = parent.fork()
    rewrite(parent, oracle, generator, 0, 0)
    k, v = keys_and_values(SMALL, generator, torch.float32)
    parent.begin_block(4)
    parent.write(0, k, v)
    seen = parent.read(0)[0]
    del fork
    gc.collect()
    grown = page_bytes(parent)
    assert grown > SMALL.bytes(parent.codec, 4).pages
    assert_bitwise_equal(parent.read(0)[0], seen)


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), ByteCodec()], ids=repr)
def test_a_cache_made_under_inference_mode_goes_on_outside_it(codec):
    with torch.inference_mode():
        cache = PagedKVCache(SMALL, Window(), codec)
        run_block(cache, oracle := Oracle(), torch.Generator().manual_seed(0), 0, False)
        fork, its_oracle = cache.fork(), oracle.copy()
        run_block(fork, its_oracle, torch.Generator().manual_seed(1), 0, False)
    for each, known in ((cache, oracle), (fork, its_oracle)):
        run_block(each, known, torch.Generator().manual_seed(2), 0, False)
        rewrite(each, known, torch.Generator().manual_seed(3), 0, 0)
