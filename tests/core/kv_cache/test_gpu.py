"""A cache on a GPU: as many bytes as predicted, and the bits of a cache on the CPU."""

import pytest
import torch

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import CacheLayout, Int8PageCodec, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule
from longlive_core.testing import assert_bitwise_equal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="a cache on a GPU needs a GPU"),
]
EXACT = (PlainCodec(), NVFP4PageCodec(), NVFP4PageCodec(rule=ScaleRule.AMAX_6))


@pytest.mark.parametrize("codec", [*EXACT, Float8PageCodec(), Int8PageCodec()], ids=repr)
def test_the_allocator_gives_what_the_layout_predicts(codec):
    """Of what is asked of the allocator: what it gives goes with the holes that others left."""
    layout = CacheLayout(layers=3, heads=24, head_dim=128, tokens_per_page=880)
    before = _requested()
    cache = PagedKVCache(layout, Window(), codec, "cuda")
    taken = _requested() - before
    predicted = layout.bytes(codec, Window().capacity).total
    assert predicted <= taken <= predicted + 512 * len(cache.tensors())


def _requested() -> int:
    """The bytes that tensors on the GPU asked torch's allocator for."""
    return torch.cuda.memory_stats().get("requested_bytes.all.current", 0)


@pytest.mark.parametrize("codec", EXACT, ids=repr)
def test_a_window_has_the_bits_of_one_on_the_cpu(codec):
    layout = CacheLayout(layers=2, heads=3, head_dim=80, tokens_per_page=33, samples=2)
    caches = [PagedKVCache(layout, Window(), codec, device) for device in ("cpu", "cuda")]
    generator = torch.Generator().manual_seed(0)
    for block in range(8):
        for cache in caches:
            cache.begin_block(block)
        for clean in (False, True):
            for layer in range(layout.layers):
                pages = torch.randn(2, *layout.page_shape, generator=generator).bfloat16()
                for cache in caches:
                    cache.write(layer, *pages.to(cache.device), clean=clean)
                on_cpu, on_gpu = (cache.read(layer) for cache in caches)
                for kind, want, got in zip("kv", on_cpu, on_gpu, strict=True):
                    assert_bitwise_equal(got, want, f"{kind} of block {block}, layer {layer}")
        for cache in caches:
            cache.commit()
            if block in (2, 5):
                cache.start_shot()
