"""CacheSnapshot: all that a cache remembers between two blocks, in plain parts."""

from dataclasses import dataclass

from torch import Tensor

from longlive_core.kv_cache.layout import CacheLayout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheSnapshot:
    """What ``PagedKVCache.snapshot`` takes and ``restore`` gives back: bytes and small integers.

    Attributes:
        layout: the cache's sizes.
        tensors: the stores' tensors on the CPU, by name, ready for a safetensors file.
        pages: the page in each slot; None where a slot is free.
        blocks: blocks committed so far.
        shot_start: the page that anchors the current shot.
        forgotten: pages before this one were dropped by a shot that forgets, all but lasting ones.
    """

    layout: CacheLayout
    tensors: dict[str, Tensor]
    pages: tuple[int | None, ...]
    blocks: int
    shot_start: int
    forgotten: int
