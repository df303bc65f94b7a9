"""Diffusers' Wan transformer over a paged cache: `python examples/diffusers_wan_with_cache.py`."""

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from longlive_core.attention import attention
from longlive_core.kv_cache import CacheLayout, LayerCache, PagedKVCache, PlainCodec, Window


class CachedAttention:
    """An attention processor for a block's own tokens, whose past is in one layer of a cache."""

    def __init__(self, memory: LayerCache) -> None:
        self.memory = memory

    def __call__(self, attn: Any, x: Tensor, context: None, mask: None, rope: Any) -> Tensor:
        q, k, v = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(x)), attn.to_v(x)
        q, k, v = (part.unflatten(2, (attn.heads, -1)) for part in (q, k, v))
        self.memory.write(rotated(k, *rope), v)
        k, v = self.memory.read()
        return attn.to_out[1](attn.to_out[0](attention(rotated(q, *rope), k, v).flatten(2)))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of channels turned by their angles, as Diffusers turns them."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).type_as(x)


class OwnFrames(nn.Module):
    """Rotary tables of a block's own frames, and processors; the model's start at frame 0."""

    def __init__(self, model: Any, cache: PagedKVCache) -> None:
        super().__init__()
        self.film, model.rope = model.rope, self
        for layer, block in enumerate(model.blocks):
            block.attn1.set_processor(CachedAttention(cache.layer(layer)))

    def begin(self, frames: range, height: int, width: int) -> None:
        tables = self.film(torch.empty(1, 1, frames.stop, height, width, device="meta"))
        own = tables[0].shape[1] // frames.stop * len(frames)
        self.tables = tuple(table[0, -own:].clone()[None] for table in tables)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.tables


if __name__ == "__main__":
    model = WanTransformer3DModel(num_attention_heads=2, attention_head_dim=24, num_layers=2)
    layout = CacheLayout(layers=2, heads=2, head_dim=24, tokens_per_page=32)  # 2 frames of 4 x 4
    cache = PagedKVCache(layout, Window(pages=4), PlainCodec(torch.float32))
    own_frames = OwnFrames(model, cache)
    cache.begin_block(0)  # docs/your_own_model.md has the loop over blocks
    own_frames.begin(cache.frames(16)[0], 8, 8)
    print(model(torch.randn(1, 16, 2, 8, 8), torch.zeros(1), torch.randn(1, 4, 4096)).sample.shape)
