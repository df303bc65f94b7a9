"""Blocks of any length, anywhere in a film: pages, positions and summaries of a contiguous list."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.kv_cache import (
    AbsolutePositions,
    CacheLayout,
    CacheSnapshot,
    PageChoice,
    PagedKVCache,
    PlainCodec,
    RelativePositions,
    Window,
)
from longlive_core.kv_cache.film import Film
from tests.core.kv_cache.schedules import POLICIES

FRAME = 2  # tokens of a frame
LAYOUT = CacheLayout(layers=1, heads=1, head_dim=1, tokens_per_page=4 * FRAME)


def numbered(frames: range) -> torch.Tensor:
    """Keys that say which frame they are of."""
    return torch.tensor(list(frames)).repeat_interleave(FRAME).float().view(1, -1, 1, 1)


def through_a_file(cache: PagedKVCache) -> PagedKVCache:
    snapshot = cache.snapshot()
    words = json.loads(json.dumps(snapshot.to_dict()))
    other = PagedKVCache(cache.layout, cache.policy, cache.codec)
    other.restore(CacheSnapshot.from_dict(words, snapshot.tensors))
    return other


BLOCKS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["", "cut", "forget", "fork", "file", "rewrite"])),
    max_size=9,
)


@given(POLICIES, BLOCKS)
def test_frames_and_places_are_those_of_a_contiguous_list(policy, blocks):
    cache = PagedKVCache(LAYOUT, policy, PlainCodec(torch.float32))
    film: list[range] = []  # the frames of each block

    def make(block: int) -> None:
        keys = numbered(film[block])
        cache.write(0, keys, keys, clean=True)
        seen = cache.read(0)[0].flatten()[::FRAME].long().tolist()
        frames = cache.frames(FRAME)
        assert seen == [frame for page in cache.order for frame in film[page]]
        assert all(frames[page] == film[page] for page in cache.order)
        absolute = AbsolutePositions().places(cache.order, block, frames, 100.5)
        assert list(absolute.own) == [frame + 100.5 for frame in film[block]]
        relative = RelativePositions().places(cache.order, block, frames)
        ranks = {frame: rank for rank, frame in enumerate(sorted(seen))}
        assert list(relative.keys) == [ranks[frame] for frame in seen]
        assert list(relative.own) == [ranks[frame] for frame in film[block]]
        cache.commit()

    for block, (length, then) in enumerate(blocks):
        start = film[-1].stop if film else 0
        film.append(range(start, start + length))
        cache.begin_block(block, tokens=4 * FRAME)  # begun again with its own length
        cache.begin_block(block, tokens=length * FRAME)
        make(block)
        if then in ("cut", "forget"):
            cache.start_shot(forget=then == "forget")
        elif then == "fork":
            cache = cache.fork()
        elif then == "file":
            cache = through_a_file(cache)
        elif then == "rewrite":
            cache.begin_rewrite(cache.pages[0])
            make(cache.pages[0])


class Recent:
    """A policy by content that remembers what it was shown."""

    capacity = 3

    def choose(self, block, shot_start, summaries):
        self.summaries = {page: float(x) for page, x in summaries.items()}
        pages = tuple(range(max(0, block - 2), block + 1))
        return PageChoice(pages, pages)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_a_summary_is_of_the_block_s_own_tokens(lengths):
    policy = Recent()
    cache = PagedKVCache(LAYOUT, policy, PlainCodec(torch.float32))
    for block, length in enumerate(lengths):
        cache.begin_block(block, tokens=length * FRAME)
        keys = torch.full((1, length * FRAME, 1, 1), block + 1.0)
        cache.write(0, keys, keys, clean=True)
        cache.commit()
        assert cache.visible_next
        assert all(mean == page + 1 for page, mean in policy.summaries.items())


def test_a_film_of_whole_pages_is_saved_as_it_always_was():
    cache = PagedKVCache(LAYOUT, Window(), PlainCodec(torch.float32))
    for block, tokens in enumerate((8, 8, 2)):
        cache.begin_block(block, tokens=tokens)
        cache.write(0, numbered(range(tokens // 2)), numbered(range(tokens // 2)), clean=True)
        cache.commit()
        words = cache.snapshot().to_dict()
        assert ("film_tokens" in words) == (block == 2)
    assert (words["short"], words["starts"], words["film_tokens"]) == ({"2": 2}, {}, 18)


def test_parts_of_frames_are_refused():
    film = Film(page=6)
    film.begin(0, 2)
    film.commit(0)
    assert film.frames(2) == {0: range(0, 1)}
    with pytest.raises(ValueError, match="page 0 holds tokens 0 to 2 of the film.*multiple of 4"):
        film.frames(4)
    with pytest.raises(ValueError, match="tokens_per_frame is at least 1, got 0"):
        film.frames(0)


def test_frames_of_pages_that_are_not_given_are_refused():
    with pytest.raises(ValueError, match=r"has pages \[0\] and lacks 1.*PagedKVCache.frames"):
        RelativePositions().places((0, 1), 1, {0: range(4)})


def test_a_longer_block_than_a_page_is_refused():
    cache = PagedKVCache(replace(LAYOUT, samples=2), Window(), PlainCodec(torch.float32))
    with pytest.raises(ValueError, match="tokens is at most 8, got 9.*for the longest block"):
        cache.begin_block(0, tokens=9)
