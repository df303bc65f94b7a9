"""Fast paths of a block: what they leave out or hand on differently changes no byte."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from longlive_core import float8
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.testing import assert_bitwise_equal
from longlive_models.wan import WanTransformer
from longlive_models.wan.block import WanBlock
from tests.core.kernel_script import run_kernels
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

WIDE = replace(TINY, dim=32, ffn_dim=48)


class Copies:
    """A memory without ``room``: keys and values are copied into it."""

    def __init__(self, cache: PagedKVCache) -> None:
        self.write, self.read = cache.write, cache.read


def model_of(dtype: torch.dtype) -> WanTransformer:
    return tiny_model(WIDE).to(dtype).eval().requires_grad_(False)


def cache_of(dtype: torch.dtype) -> PagedKVCache:
    layout = CacheLayout(
        layers=WIDE.num_layers,
        heads=WIDE.num_heads,
        head_dim=WIDE.head_dim,
        tokens_per_page=WIDE.frames_per_block * TOKENS,
        samples=2,
    )
    return PagedKVCache(layout, Window(pages=2, sink=1, shot_sink=0), PlainCodec(dtype))


@torch.no_grad()
def film(model: WanTransformer, *, velocity: bool = False, roomy: bool = True) -> list[Tensor]:
    """Velocities of three blocks, and the pages that they leave."""
    dtype = model.patch_embedding.weight.dtype
    cache = cache_of(dtype)
    latents, timesteps, text = (x.to(dtype) for x in inputs(frames=6))
    words, made = model.embed_text(text), []
    memory = cache if roomy else Copies(cache)
    for block in range(3):
        own = slice(2 * block, 2 * block + 2)
        x, where = latents[:, :, own], torch.arange(6.0)[own]
        cache.begin_block(block)
        made.append(model(x, timesteps[:, own], words, positions=where, memory=memory))
        clean = 0 * timesteps[:, own]
        answer = model(
            x, clean, words, positions=where, memory=memory, store=True, velocity=velocity
        )
        assert (answer is None) != velocity
        cache.commit()
    return made + list(cache.snapshot().tensors.values())


def assert_same(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        assert_bitwise_equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clean_pass_that_ends_with_keys_and_values_leaves_the_same_pages(dtype):
    model = model_of(dtype)
    assert_same(film(model), film(model, velocity=True))


def test_it_attends_in_all_layers_but_the_last(monkeypatch):
    model, cache = model_of(torch.float32), cache_of(torch.float32)
    latents, timesteps, text = (x.float() for x in inputs(frames=2))
    ran = []
    for layer, block in enumerate(model.blocks):
        for part in (block.self_attn.o, block.cross_attn, block.ffn[0]):
            part.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    model.head.register_forward_hook(lambda *_: ran.append("head"))
    cache.begin_block(0)
    with torch.no_grad():
        model(latents, timesteps, text, memory=cache, store=True, velocity=False)
    cache.commit()
    assert ran == [0, 0, 0]


def test_a_pass_that_leaves_nothing_is_refused():
    latents, timesteps, text = inputs(frames=2)
    with pytest.raises(ValueError, match="velocity=False without a memory: then nothing is left"):
        tiny_model()(latents, timesteps, text, velocity=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_made_where_the_cache_keeps_them_are_those_that_are_copied(dtype, monkeypatch):
    model, rooms, room = model_of(dtype), [], PagedKVCache.room
    monkeypatch.setattr(
        PagedKVCache, "room", lambda cache, layer: rooms.append(room(cache, layer)) or rooms[-1]
    )
    made = film(model)
    assert len(rooms) == 3 * 2 * WIDE.num_layers and None not in rooms
    assert_same(made, film(model, roomy=False))
    assert len(rooms) == 3 * 2 * WIDE.num_layers


def test_what_is_written_out_is_near_torchs_own():
    model = model_of(torch.bfloat16)
    plain = film(model)
    model.set_quality("lossless", fused="reference")
    exact = film(model)
    model.set_quality("lossless", fused="torch")
    assert_same(film(model), plain)
    for got, want in zip(exact, plain, strict=True):
        assert (got.float() - want.float()).norm() < 0.02 * want.float().norm()


def test_rows_in_eight_bits_are_handed_on_without_a_change(monkeypatch):
    model = model_of(torch.bfloat16)
    float8.convert_linears(model.blocks)
    block = model.blocks[0]
    assert isinstance(block, WanBlock) and isinstance(block.self_attn.q, float8.Float8Linear)
    asked = []
    taken = float8.Float8Linear._of_rows
    monkeypatch.setattr(
        float8.Float8Linear, "_of_rows", lambda self, x: asked.append(1) or taken(self, x)
    )
    handed = film(model)
    assert len(asked) == 3 * (12 + 8)  # of a block: two layers, then one and its keys and values
    monkeypatch.setattr("longlive_models.wan.block.takes_rows", lambda *linears: False)
    assert_same(handed, film(model))
    assert len(asked) == 3 * (12 + 8), "none was handed on again"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"quality": "best"}, "quality='best' is no quality of this version"),
        ({"quality": "high", "fused": "cuda"}, "fused='cuda' is no backend of the fused"),
    ],
)
def test_names_that_do_not_exist_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().set_quality(how.pop("quality"), **how)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels need a CUDA device")
def test_a_film_has_the_same_bytes_with_kernels_and_without():
    model = model_of(torch.bfloat16).cuda()
    layout = cache_of(torch.bfloat16).layout
    found = []
    for fused in ("auto", "reference"):
        model.set_quality("lossless", fused=fused)
        cache = PagedKVCache(layout, Window(pages=3), PlainCodec(torch.bfloat16), "cuda")
        latents, timesteps, text = (x.cuda().bfloat16() for x in inputs(frames=2))
        cache.begin_block(0)
        with torch.no_grad():
            made = model(latents, timesteps, text, memory=cache)
            model(latents, 0 * timesteps, text, memory=cache, store=True, velocity=False)
        cache.commit()
        found.append([made, *cache.snapshot().tensors.values()])
    assert_same(*found)


INTERPRETED = """
import contextlib
import torch
from longlive_core.backends import always
from longlive_core.fused import NORM, ROTATE
from tests.models.wan.test_fast_paths import assert_same, film, model_of

torch.cuda.device = lambda device: contextlib.nullcontext()  # the kernels run on the CPU here
for table in (NORM, ROTATE):
    object.__setattr__(table.backends[0], "why_not", always)
model = model_of(torch.bfloat16)
found = []
for fused in ("triton", "reference"):
    model.set_quality("lossless", fused=fused)
    found.append(film(model))
assert_same(*found)
"""


def test_a_film_has_the_same_bytes_with_interpreted_kernels_and_without():
    run_kernels(INTERPRETED, interpreted=True)
