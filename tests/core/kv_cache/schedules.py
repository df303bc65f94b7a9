"""Random schedules of a cache, with an oracle that keeps every page as a plain tensor."""

from dataclasses import dataclass, field, replace

import torch
from hypothesis import strategies as st

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import CacheLayout, Int8PageCodec, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule
from longlive_core.testing import assert_bitwise_equal
from tests.core.kv_cache.codecs import ByteCodec, decoded

SMALL = CacheLayout(layers=2, heads=2, head_dim=8, tokens_per_page=4, samples=2)


class EveryOther:
    """A user's own policy: itself and the blocks of its own parity, so that pages come and go."""

    capacity = 6

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return tuple(page for page in self.retained(block) if (block - page) % 2 == 0)

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return tuple(range(max(0, block - 5), block + 1))


@dataclass
class Oracle:
    """Every page ever committed, in plain tensors, and the number of the shot's anchor."""

    pages: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=list)
    shot_start: int = 0
    forgotten: int = 0

    def visible(self, cache: PagedKVCache, block: int) -> tuple[int, ...]:
        """What the policy shows a block, without the pages that a shot has forgotten."""
        lasting = getattr(cache.policy, "lasting", ())
        pages = cache.policy.visible(block, self.shot_start)
        return tuple(page for page in pages if page >= self.forgotten or page in lasting)

    def copy(self) -> "Oracle":
        return replace(self, pages=list(self.pages))


def keys_and_values(layout: CacheLayout, generator: torch.Generator, dtype: torch.dtype):
    return tuple(torch.randn(layout.page_shape, generator=generator).to(dtype) for _ in range(2))


def run_block(cache: PagedKVCache, oracle: Oracle, generator, steps: int, cut: bool | str) -> None:
    """Denoise, clean pass, commit; every read is compared with the oracle's plain tensors.

    A cut may be "forget": then the history is dropped before the clean pass.
    """
    block = len(oracle.pages)
    cache.begin_block(block)
    assert tuple(sorted(cache.order)) == oracle.visible(cache, block)
    own = run_steps(cache, oracle, generator, block, steps, forget=cut == "forget")
    cache.commit()
    oracle.pages.append(own)
    if cut == "forget":
        oracle.shot_start = oracle.forgotten = block
    elif cut:
        cache.start_shot()
        oracle.shot_start = block


def rewrite(cache: PagedKVCache, oracle: Oracle, generator, page: int, steps: int) -> None:
    """Make a held page again; what it sees are the older of the pages that the next block sees."""
    seen = [p for p in oracle.visible(cache, len(oracle.pages)) if p < page]
    assert tuple(seen) == tuple(p for p in cache.visible_next if p < page)
    cache.begin_rewrite(page)
    assert sorted(cache.order) == [*seen, page]
    own = run_steps(cache, oracle, generator, page, steps)
    cache.commit()
    assert cache.blocks == len(oracle.pages)
    oracle.pages[page] = own


def run_steps(
    cache: PagedKVCache, oracle: Oracle, generator, block: int, steps: int, forget: bool = False
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Steps and a clean pass of the page begun; what is kept of it, rounded as its codec does."""
    for step in range(steps + 1):
        clean = step == steps
        if clean and forget:
            cache.start_shot(forget=True)
            assert cache.pages == tuple(sorted({*cache.order}))
            assert set(cache.order) <= {*getattr(cache.policy, "lasting", ()), block}
        order = cache.order
        own = [
            keys_and_values(cache.layout, generator, cache.codec.dtype)
            for _ in range(cache.layout.layers)
        ]
        for layer, (k, v) in enumerate(own):
            cache.write(layer, k.clone(), v.clone(), clean=clean)
            got = cache.read(layer)
            for kind in (0, 1):
                want = [
                    own[layer][kind] if page == block else oracle.pages[page][layer][kind]
                    for page in order
                ]
                assert_bitwise_equal(got[kind], torch.cat(want, dim=1), f"block {block}")
    encodes = cache.codec.workspace_pages(1) > 0
    return [tuple(decoded(cache.codec, x) if encodes else x for x in pair) for pair in own]


POLICIES = st.one_of(
    st.builds(
        lambda sink, shot_sink, more: Window(
            pages=sink + shot_sink + more, sink=sink, shot_sink=shot_sink
        ),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(1, 3),
    ),
    st.just(EveryOther()),
)
CODECS = st.sampled_from(
    [
        PlainCodec(torch.float32),
        PlainCodec(torch.bfloat16),
        ByteCodec(),
        NVFP4PageCodec(dtype=torch.float32),
        NVFP4PageCodec(rule=ScaleRule.AMAX_6),
        Float8PageCodec(),
        Int8PageCodec(dtype=torch.float32),
    ]
)
