"""Blocks of attention over a cache, compiled whole, against the same blocks as they are.

    python -m tests.core.kv_cache.compiled_blocks CODEC HEAD_DIM whole|blocks BACKEND BLOCKS

It fails unless every output equals the eager one, in at most two graphs. In a process of its own:
the shape checks of the tests are Python that nothing compiles.
"""

import sys

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import (
    CacheLayout,
    Int8PageCodec,
    LayerCache,
    PagedKVCache,
    PlainCodec,
    Window,
)
from longlive_core.nvfp4 import NVFP4PageCodec

CODECS = {
    "plain": PlainCodec(torch.float32),
    "int8": Int8PageCodec(dtype=torch.float32),
    "fp8": Float8PageCodec(dtype=torch.float32),
    "nvfp4": NVFP4PageCodec(dtype=torch.float32),
}
HEADS, KEY_HEADS, TOKENS, LAYERS, SAMPLES = 4, 2, 6, 2, 2


class Block(nn.Module):
    """Attention of grouped heads as other people write it, over one layer of a cache."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(HEADS * head_dim, (HEADS + 2 * KEY_HEADS) * head_dim)
        self.out = nn.Linear(HEADS * head_dim, HEADS * head_dim)
        self.memory: LayerCache | None = None

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = parts.split((HEADS, KEY_HEADS, KEY_HEADS), dim=2)
        self.memory.write(k, v)
        k, v = self.memory.read()
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.out(out.transpose(1, 2).flatten(2))


@torch.no_grad()
def main(codec: str, head_dim: str, how: str, backend: str, blocks: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[Block(int(head_dim)) for _ in range(LAYERS)])
    layout = CacheLayout(
        layers=LAYERS,
        heads=KEY_HEADS,
        head_dim=int(head_dim),
        tokens_per_page=TOKENS,
        samples=SAMPLES,
    )
    caches = [PagedKVCache(layout, Window(), CODECS[codec]) for _ in range(2)]
    whole = torch.compile(net, fullgraph=True, backend=backend)
    one = torch.compile(Block.forward, fullgraph=True, backend=backend)

    def run(cache: PagedKVCache, compiled: bool, x: Tensor) -> Tensor:
        for layer, block in enumerate(net):
            block.memory = cache.layer(layer)
        if not compiled:
            return net(x)
        if how == "whole":
            return whole(x)
        for block in net:
            x = one(block, x)
        return x

    for block in range(int(blocks)):
        for cache in caches:
            cache.begin_block(block)
        for clean in (False, True):
            x = torch.randn(SAMPLES, TOKENS, HEADS * int(head_dim))
            if clean:
                for cache in caches:
                    cache.begin_clean_pass()
            got, want = run(caches[0], True, x), run(caches[1], False, x)
            torch.testing.assert_close(got, want)
        for cache in caches:
            cache.commit()
            if block % 12 == 8:
                cache.start_shot()
    stored = zip(*(cache.snapshot().tensors.values() for cache in caches), strict=True)
    if backend == "aot_eager":
        assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in stored)
    graphs = counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 2, f"{graphs} graphs for {blocks} blocks"


if __name__ == "__main__":
    main(*sys.argv[1:])
