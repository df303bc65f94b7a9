"""A paged cache in an attention layer of one's own: sinks and a window, in place, no copies.

Run: `python examples/cache_in_your_attention.py`
"""

import torch
from torch import Tensor, nn

from longlive_core.attention import attention
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window

HEADS, HEAD_DIM, TOKENS = 4, 16, 32  # tokens of one block, which is one page


class MyAttention(nn.Module):
    """Any layer that makes queries, keys and values can write to a cache and read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(HEADS * HEAD_DIM, 3 * HEADS * HEAD_DIM)

    def forward(self, x: Tensor, cache: PagedKVCache, layer: int, clean: bool) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(2)
        cache.write(layer, k, v, clean=clean)  # this block's own, rewritten at every step
        k, v = cache.read(layer)  # what the window shows, this block included
        return attention(q, k, v).flatten(2)


@torch.no_grad()
def main(blocks: int = 10, steps: int = 4) -> list[tuple[int, ...]]:
    """Ten blocks through one layer; returns which pages each of them saw."""
    torch.manual_seed(0)
    layer = MyAttention()
    layout = CacheLayout(layers=1, heads=HEADS, head_dim=HEAD_DIM, tokens_per_page=TOKENS)
    window, codec = Window(pages=4, sink=1, shot_sink=1), PlainCodec(torch.float32)
    cache = PagedKVCache(layout, window, codec)
    seen = []
    for block in range(blocks):
        cache.begin_block(block)
        x = torch.randn(1, TOKENS, HEADS * HEAD_DIM)
        for _ in range(steps):
            x = layer(x, cache, layer=0, clean=False)
        layer(x, cache, layer=0, clean=True)  # the pass whose keys and values are kept
        seen.append(tuple(sorted(cache.order)))
        cache.commit()
        if block == 5:
            cache.start_shot()  # block 5 was a cut: from now on it stays visible
    print("\n".join(f"block {block} saw pages {pages}" for block, pages in enumerate(seen)))
    print(f"{layout.bytes(codec, window.capacity).total} bytes, however long the video")
    return seen


if __name__ == "__main__":
    main()
