"""A view of the cache for training: a block's own keys carry gradients, past ones do not."""

import torch
from torch import Tensor

from longlive_core.kv_cache import PagedKVCache


class GradientMemory:
    """A ``Memory`` over the block in progress of a cache, for one pass with gradients.

    A layer's past is copied when the layer first reads it. So the backward pass is correct even if
    the cache has moved on, and a layer that runs again in it (gradient checkpointing) sees the same
    past as before.

    Args:
        cache: the cache, in which block ``block`` is in progress.
        block: that block's number.
    """

    def __init__(self, cache: PagedKVCache, block: int) -> None:
        self._cache = cache
        held, before = cache.frames(tokens_per_frame=1), cache.order[: cache.order.index(block)]
        self._start = sum(len(held[page]) for page in before)
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, k: Tensor, v: Tensor, *, clean: bool) -> None:
        """Set the block's own keys and values, [samples, tokens, heads, head_dim]."""
        assert not clean, "a page is filled by the pass without gradients"
        self._own[layer] = (k, v)
        if layer not in self._seen:
            with torch.no_grad():
                self._cache.write(layer, k, v)
                keys, values = self._cache.read(layer)
                self._seen[layer] = (keys.clone(), values.clone())

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return all keys and values that the block sees; its own carry gradients."""
        seen, own = self._seen[layer], self._own.pop(layer)
        return self._with_own(seen[0], own[0]), self._with_own(seen[1], own[1])

    def _with_own(self, seen: Tensor, own: Tensor) -> Tensor:
        end = self._start + own.shape[1]
        return torch.cat([seen[:, : self._start], own.to(seen.dtype), seen[:, end:]], dim=1)
