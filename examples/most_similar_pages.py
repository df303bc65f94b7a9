"""A policy that looks: besides the newest pages a block sees the most similar of the older ones.

Run: `python examples/most_similar_pages.py`
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from longlive_core.kv_cache import CacheLayout, PageChoice, PagedKVCache, PlainCodec


@dataclass(frozen=True, kw_only=True)
class MostSimilar:
    """The newest pages, and the ``k`` older ones whose keys are most like those of the newest.

    Of ``pool`` older pages the least similar makes room for the next: a page dropped is gone.
    """

    recent: int = 2
    k: int = 2
    pool: int = 6

    @property
    def capacity(self) -> int:  # the most pages at once
        return self.recent + self.pool

    def choose(self, block: int, shot_start: int, summaries: Mapping[int, Tensor]) -> PageChoice:
        new = range(max(0, block + 1 - self.recent), block + 1)
        old = [page for page in summaries if page not in new]
        if old:  # then there is a page before this one
            newest = summaries[block - 1].flatten()
            like = {p: float(cosine_similarity(summaries[p].flatten(), newest, 0)) for p in old}
            old.sort(key=lambda page: (-like[page], -page))
        visible, retained = (sorted((*old[:n], *new)) for n in (self.k, self.pool))
        return PageChoice(tuple(visible), tuple(retained))


def main(scenes: str = "AAABBBBAABB") -> list[tuple[int, ...]]:
    """A film that goes back and forth between scenes; returns which pages each block saw."""
    layout = CacheLayout(layers=1, heads=2, head_dim=8, tokens_per_page=4)
    cache, seen = PagedKVCache(layout, MostSimilar(), PlainCodec(torch.float32)), []
    look = {name: torch.randn(8) for name in sorted(set(scenes))}
    for block, scene in enumerate(scenes):
        cache.begin_block(block)
        keys = look[scene] + 0.1 * torch.randn(layout.page_shape)
        cache.write(0, keys, keys, clean=True)
        seen.append(tuple(sorted(cache.order)))
        cache.commit()
        print(f"block {block} of {scene} saw", *(f"{page}{scenes[page]}" for page in seen[-1]))
    return seen


if __name__ == "__main__":
    main()
