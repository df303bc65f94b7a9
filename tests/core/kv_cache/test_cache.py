"""Paged equals contiguous: whatever the schedule, a read is what plain tensors would have given."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import (
    CacheLayout,
    Int8PageCodec,
    PageCodec,
    PagedKVCache,
    PlainCodec,
    Window,
    WindowPolicy,
)
from longlive_core.nvfp4 import NVFP4PageCodec
from longlive_core.testing import assert_bitwise_equal, nan_filled_empty
from tests.core.kv_cache.codecs import ByteCodec
from tests.core.kv_cache.schedules import (
    CODECS,
    POLICIES,
    SMALL,
    EveryOther,
    Oracle,
    keys_and_values,
    rewrite,
    run_block,
)

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), st.integers(0, 2), st.sampled_from([False, True, "forget"])),
        st.tuples(st.just("rewrite"), st.integers(0, 5), st.integers(0, 1)),
        st.tuples(st.sampled_from(["fork", "snapshot", "restore", "reset", "abandon"])),
    ),
    max_size=14,
)


@given(POLICIES, CODECS, st.integers(1, 3), ACTIONS)
def test_any_schedule_reads_what_plain_tensors_give(policy, codec, samples, actions):
    generator = torch.Generator().manual_seed(0)
    layout = replace(SMALL, samples=samples)
    with nan_filled_empty():
        cache, oracle = PagedKVCache(layout, policy, codec), Oracle()
        saved = (cache.snapshot(), oracle.copy())
        others: list[tuple[PagedKVCache, Oracle]] = []
        for name, *arguments in actions:
            match name:
                case "block":
                    run_block(cache, oracle, generator, *arguments)
                case "rewrite":
                    if held := cache.pages:
                        choice, steps = arguments
                        rewrite(cache, oracle, generator, held[choice % len(held)], steps)
                case "fork":
                    others.append((cache, oracle))
                    cache, oracle = cache.fork(), oracle.copy()
                case "snapshot":
                    saved = (cache.snapshot(), oracle.copy())
                case "restore":
                    cache.restore(saved[0])
                    oracle = saved[1].copy()
                case "reset":
                    cache.reset()
                    oracle = Oracle()
                case "abandon":
                    cache.begin_block(len(oracle.pages))
                    k, v = keys_and_values(layout, generator, codec.dtype)
                    cache.write(0, k, v)
                    run_block(cache, oracle, generator, 0, False)
        for other, its_oracle in [(cache, oracle), *others]:
            run_block(other, its_oracle, generator, 1, False)


@given(POLICIES, CODECS, st.integers(1, 3), st.integers(1, 3))
def test_memory_is_what_the_layout_predicts(policy, codec, layers, samples):
    layout = replace(SMALL, layers=layers, samples=samples)
    cache = PagedKVCache(layout, policy, codec)
    taken = {name: x.untyped_storage().nbytes() for name, x in cache.tensors().items()}
    shared = sum(size for name, size in taken.items() if name.startswith("workspace"))
    predicted = layout.bytes(codec, policy.capacity)
    assert predicted.scratch == shared
    assert predicted.pages == sum(taken.values()) - shared
    assert predicted.total == sum(taken.values())


def test_the_large_model_s_cache_is_ten_gigabytes():
    layout = CacheLayout(layers=30, heads=24, head_dim=128, tokens_per_page=7040)
    assert layout.bytes(PlainCodec(), Window().capacity).total == 30 * 2 * 28160 * 24 * 128 * 2
    four_bits = layout.bytes(NVFP4PageCodec(), Window().capacity)
    assert four_bits.pages == 30 * 2 * 4 * (7040 * 24 * 72 + 4) <= 2.95e9
    assert four_bits.scratch == 2 * 28160 * 24 * 128 * 2
    for codec in (Float8PageCodec(), Int8PageCodec()):
        assert layout.bytes(codec, Window().capacity).pages == 30 * 2 * 28160 * 24 * 132


@pytest.mark.parametrize("samples", [1, 2])
def test_a_full_window_is_read_in_place(samples):
    layout = replace(SMALL, samples=samples)
    cache, oracle = PagedKVCache(layout, Window(), PlainCodec(torch.float32)), Oracle()
    generator = torch.Generator().manual_seed(0)
    stores = {x.data_ptr() for x in cache.tensors().values() if x.numel()}
    for block in range(9):
        run_block(cache, oracle, generator, 1, cut=block in (3, 6))
        cache.begin_block(block + 1)
        k, v = keys_and_values(layout, generator, torch.float32)
        cache.write(1, k, v)
        assert {x.data_ptr() for x in cache.read(1)} <= stores


def test_nothing_moves_at_a_cut():
    cache, oracle = PagedKVCache(SMALL, Window(), PlainCodec(torch.float32)), Oracle()
    generator = torch.Generator().manual_seed(0)
    for block in range(5):
        run_block(cache, oracle, generator, 0, cut=block == 3)
    before = {name: x.clone() for name, x in cache.tensors().items()}
    cache.start_shot()
    assert cache.shot_start == 4
    for name, x in cache.tensors().items():
        assert_bitwise_equal(x, before[name], name)


@pytest.mark.parametrize("codec", [PlainCodec(torch.float32), ByteCodec()], ids=repr)
def test_the_own_block_carries_gradients_and_the_past_does_not(codec: PageCodec):
    cache, oracle = PagedKVCache(SMALL, Window(), codec), Oracle()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        run_block(cache, oracle, generator, 0, False)
    cache.begin_block(5)
    k, v = (x.requires_grad_() for x in keys_and_values(SMALL, generator, torch.float32))
    cache.write(0, k, v)
    got_k, got_v = cache.read(0)
    with torch.no_grad():
        plain_k, plain_v = cache.read(0)
    assert_bitwise_equal(got_k, plain_k)
    assert_bitwise_equal(got_v, plain_v)
    place = cache.order.index(5) * SMALL.tokens_per_page
    weights = torch.randn(got_k.shape, generator=generator)
    (gradient,) = torch.autograd.grad((got_k * weights).sum(), k)
    assert_bitwise_equal(gradient, weights[:, place : place + SMALL.tokens_per_page].contiguous())
    cache.write(0, k, v, clean=True)
    cache.write(1, k, v, clean=True)
    cache.commit()
    assert not any(x.requires_grad for x in cache.tensors().values())


def filled(policy: WindowPolicy | None = None, blocks: int = 0) -> PagedKVCache:
    cache = PagedKVCache(SMALL, policy or Window(), PlainCodec(torch.float32))
    oracle, generator = Oracle(), torch.Generator().manual_seed(0)
    for _ in range(blocks):
        run_block(cache, oracle, generator, 0, False)
    return cache


PAGE = torch.zeros(SMALL.page_shape)


def test_steps_out_of_order_are_refused():
    cache = filled()
    with pytest.raises(ValueError, match=r"write outside a block.*begin_block\(0\) first"):
        cache.write(0, PAGE, PAGE)
    with pytest.raises(ValueError, match="read outside a block"):
        cache.read(0)
    with pytest.raises(ValueError, match="commit outside a block"):
        cache.commit()
    with pytest.raises(ValueError, match="start_shot before any block"):
        cache.start_shot()
    with pytest.raises(ValueError, match=r"begin_block\(1\) after 0 committed.*the next is 0"):
        cache.begin_block(1)
    cache.begin_block(0)
    with pytest.raises(ValueError, match=r"read\(1\) before write\(1\)"):
        cache.read(1)
    cache.write(0, PAGE, PAGE, clean=True)
    cache.write(1, PAGE, PAGE)
    with pytest.raises(ValueError, match=r"without a clean write of layers \[1\]"):
        cache.commit()
    for act in (cache.fork, cache.snapshot, cache.start_shot):
        with pytest.raises(ValueError, match="in the middle of block 0.*after commit"):
            act()


def test_a_rewrite_is_of_a_held_page_and_is_finished():
    cache = filled(blocks=6)
    assert (cache.pages, cache.visible_next) == ((0, 3, 4, 5), (0, 4, 5))
    with pytest.raises(ValueError, match=r"begin_rewrite\(1\): that page is not held.*0, 3, 4, 5"):
        cache.begin_rewrite(1)
    cache.begin_rewrite(4)
    assert sorted(cache.order) == [0, 4]
    with pytest.raises(ValueError, match=r"begin_block\(6\) while page 4 is rewritten"):
        cache.begin_block(6)
    for act in (cache.fork, cache.snapshot, cache.start_shot, lambda: cache.begin_rewrite(4)):
        with pytest.raises(ValueError, match="in the middle of block 4"):
            act()
    for layer in range(SMALL.layers):
        cache.write(layer, PAGE, PAGE, clean=True)
    cache.commit()
    assert (cache.blocks, cache.pages) == (6, (0, 3, 4, 5))


def test_a_cut_that_forgets_keeps_the_film_s_sink_alone():
    """Within the block its clean pass sees the sink and itself; after it, its past is gone."""
    cache, oracle = PagedKVCache(SMALL, Window(), PlainCodec(torch.float32)), Oracle()
    generator, seen = torch.Generator().manual_seed(0), []
    for block in range(8):
        run_block(cache, oracle, generator, 1, "forget" if block == 3 else False)
        seen.append(cache.visible_next)
    assert seen[2:] == [(0, 1, 2), (0, 3), (0, 3, 4), (0, 3, 5), (0, 3, 6), (0, 3, 7)]
    assert cache.shot_start == 3
    cache.start_shot(forget=True)
    assert (cache.pages, cache.shot_start) == ((0, 7), 7)


def test_forgetting_comes_before_the_clean_pass():
    cache = filled(blocks=4)
    cache.begin_block(4)
    cache.write(0, PAGE, PAGE, clean=True)
    with pytest.raises(ValueError, match="after clean writes of block 4.*before the clean pass"):
        cache.start_shot(forget=True)
    with pytest.raises(ValueError, match="in the middle of block 4"):
        cache.start_shot()


def test_a_policy_that_names_no_lasting_pages_forgets_all():
    cache = filled(EveryOther(), blocks=4)
    cache.start_shot(forget=True)
    assert cache.pages == (3,)


def test_a_page_is_encoded_once_on_its_clean_write(monkeypatch):
    """Noise is never encoded: a store is written two times a layer and block, keys and values."""
    cache, slots = PagedKVCache(SMALL, Window(), ByteCodec()), []
    write = cache.codec.write

    def counted(store, slot, page):
        slots.append(slot)
        write(store, slot, page)

    monkeypatch.setattr(cache.codec, "write", counted)
    for block in range(3):
        cache.begin_block(block)
        for clean in (False, False, True):
            for layer in range(SMALL.layers):
                cache.write(layer, PAGE, PAGE, clean=clean)
        cache.commit()
        assert slots == [slot for slot in range(block + 1) for _ in range(2 * SMALL.layers)]


def test_an_encoded_cache_reads_the_layer_it_has_just_written():
    cache = PagedKVCache(SMALL, Window(), ByteCodec())
    cache.begin_block(0)
    cache.write(0, PAGE + 1, PAGE + 1)
    cache.write(1, PAGE + 2, PAGE + 2)
    with pytest.raises(ValueError, match=r"read\(0\) before write\(0\) in this step.*share"):
        cache.read(0)


def test_a_type_of_16_bits_is_not_kept_in_the_other_one():
    cache = PagedKVCache(SMALL, Window(), PlainCodec(torch.bfloat16))
    cache.begin_block(0)
    with pytest.raises(ValueError, match="float16 for a codec that reads torch.bfloat16: neither"):
        cache.write(0, PAGE.half(), PAGE)
    cache.write(0, PAGE.bfloat16(), PAGE.bfloat16())
    cache.write(0, PAGE, PAGE)  # float32 is rounded


def test_a_part_of_a_page_is_refused_with_a_reason():
    cache = filled()
    cache.begin_block(0)
    with pytest.raises(ValueError, match=r"page is \(2, 4, 2, 8\).*got keys \(2, 3, 2, 8\).*whole"):
        cache.write(0, PAGE[:, :3], PAGE[:, :3])


def test_a_snapshot_of_another_cache_is_refused():
    snapshot = filled(blocks=2).snapshot()
    with pytest.raises(ValueError, match="the snapshot is of another cache.*same layout"):
        filled(Window(pages=5)).restore(snapshot)
    with pytest.raises(ValueError, match="the snapshot is of another cache"):
        PagedKVCache(SMALL, Window(), PlainCodec(torch.float16)).restore(snapshot)


def test_a_snapshot_does_not_change_with_the_cache():
    cache = filled(blocks=2)
    snapshot = cache.snapshot()
    before = {name: x.clone() for name, x in snapshot.tensors.items()}
    cache.begin_block(2)
    cache.write(0, PAGE, PAGE)
    for name, x in snapshot.tensors.items():
        assert_bitwise_equal(x, before[name], name)
    assert (snapshot.blocks, snapshot.shot_start, snapshot.pages[:2]) == (2, 0, (0, 1))


@pytest.mark.parametrize("size", ["layers", "heads", "head_dim", "tokens_per_page", "samples"])
def test_a_layout_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match=f"CacheLayout.{size} is at least 1, got 0: a cache has"):
        replace(SMALL, **{size: 0})
