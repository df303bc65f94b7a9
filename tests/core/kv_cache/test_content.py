"""Policies by content: a page's summary is the mean of its clean keys, whatever its codec."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import (
    ContentPolicy,
    PageChoice,
    PagedKVCache,
    PlainCodec,
    Window,
)
from longlive_core.testing import assert_bitwise_equal
from tests.core.kv_cache.codecs import ByteCodec
from tests.core.kv_cache.schedules import CODECS, SMALL, keys_and_values


@dataclass
class Watching:
    """A window by content's protocol; it keeps what it was shown."""

    window: Window

    def __post_init__(self) -> None:
        self.shown: dict[int, torch.Tensor] = {}

    @property
    def capacity(self) -> int:
        return self.window.capacity

    def choose(self, block, shot_start, summaries) -> PageChoice:
        self.shown = dict(summaries)
        return PageChoice(
            self.window.visible(block, shot_start), self.window.retained(block, shot_start)
        )


def fill(cache: PagedKVCache, blocks: range, means: dict[int, torch.Tensor]) -> None:
    """Random blocks; ``means`` receives each page's mean keys, [layers, samples, heads, dim]."""
    generator = torch.Generator().manual_seed(blocks.start)
    for block in blocks:
        cache.begin_block(block)
        clean = []
        for step in range(2):
            for layer in range(cache.layout.layers):
                k, v = keys_and_values(cache.layout, generator, torch.float32)
                cache.write(layer, k, v, clean=step == 1)
                clean.append(k)
        cache.commit()
        means[block] = torch.stack([k.mean(1) for k in clean[-cache.layout.layers :]])


@given(CODECS, st.integers(1, 9))
def test_a_summary_is_the_mean_of_the_clean_keys(codec, blocks):
    policy, means = Watching(Window()), {}
    cache = PagedKVCache(SMALL, policy, codec)
    fill(cache, range(blocks), means)
    assert cache.visible_next == tuple(p for p in Window().visible(blocks) if p < blocks)
    assert tuple(sorted(policy.shown)) == cache.pages
    for page, summary in policy.shown.items():
        assert_bitwise_equal(summary, means[page], f"page {page}")


def test_summaries_go_with_forks_snapshots_and_rewrites():
    policy, means = Watching(Window()), {}
    cache = PagedKVCache(SMALL, policy, ByteCodec())
    fill(cache, range(4), means)
    fork, snapshot = cache.fork(), cache.snapshot()
    fill(cache, range(4, 7), means)
    for other in (fork, PagedKVCache(SMALL, policy, ByteCodec())):
        if other is not fork:
            other.restore(snapshot)
        assert other.visible_next == (0, 2, 3)
        for page, summary in policy.shown.items():
            assert_bitwise_equal(summary, means[page], f"page {page}")
    fork.begin_rewrite(2)
    for layer in range(SMALL.layers):
        fork.write(layer, *[torch.full(SMALL.page_shape, 3.0)] * 2, clean=True)
    fork.commit()
    assert fork.visible_next and bool((policy.shown[2] == 3).all())


def test_summaries_are_counted_and_only_there_for_who_asks():
    codec = PlainCodec()
    watched = PagedKVCache(SMALL, Watching(Window()), codec)
    predicted = SMALL.bytes(codec, 4, summaries=True)
    assert predicted.total == sum(x.nbytes for x in watched.tensors().values())
    assert predicted.summaries == watched.tensors()["summaries"].nbytes > 0
    fill(watched, range(6), {})
    assert watched.own_bytes == predicted
    plain = PagedKVCache(SMALL, Window(), codec)
    assert "summaries" not in plain.tensors()
    assert SMALL.bytes(codec, 4).summaries == 0


def test_a_window_is_no_content_policy():
    assert isinstance(Watching(Window()), ContentPolicy)
    assert not isinstance(Window(), ContentPolicy)


def test_a_choice_of_a_page_that_is_gone_is_refused():
    class Wrong(Watching):
        def choose(self, block, shot_start, summaries) -> PageChoice:
            return PageChoice((0, block), (block,))

    cache = PagedKVCache(replace(SMALL, layers=1), Wrong(Window()), PlainCodec())
    fill(cache, range(1), {})
    with pytest.raises(ValueError, match=r"shows pages \[0, 1\], but \[0\] are not held"):
        cache.begin_block(1)
