"""Self-attention over a memory's windows in E4M3: who takes them, and what it changes."""

import pytest
import torch
from torch import Tensor

from longlive_core.attention import ATTENTION_OVER_CODES
from longlive_core.attention_eight_bit import emulated
from longlive_core.backends import Request
from longlive_core.kv_cache import PagedKVCache
from longlive_core.testing import assert_bitwise_equal
from longlive_models.wan import WanTransformer
from longlive_models.wan import attention as wan_attention
from tests.models.wan.test_fast_paths import WIDE, cache_of
from tests.models.wan.tiny import inputs, tiny_model


class Watched(PagedKVCache):
    """A cache that counts how often its windows are asked for."""

    asked = 0

    def read_coded(self, layer):
        self.asked += 1
        return super().read_coded(layer)


def model_of(quality: str, attention: str = "auto") -> WanTransformer:
    model = tiny_model(WIDE, attention=attention).float().eval().requires_grad_(False)
    model.set_quality(quality)
    return model


def memory_of(windows: bool) -> Watched:
    plain = cache_of(torch.float32)
    return Watched(plain.layout, plain.policy, plain.codec, windows=windows)


def film(model: WanTransformer, cache: PagedKVCache, **how: object) -> list[Tensor]:
    """Velocities of three blocks of two steps, and the pages that they leave."""
    like = model.patch_embedding.weight
    latents, timesteps, text = inputs(frames=6)
    latents, text = latents.to(like), text.to(like)
    timesteps = timesteps.to(like.device)  # not in bfloat16, which has no 601
    words, made = model.embed_text(text), []
    for block in range(3):
        own = slice(2 * block, 2 * block + 2)
        x, where = latents[:, :, own], torch.arange(6.0, device=like.device)[own]
        cache.begin_block(block)
        for factor, store in ((1.0, False), (0.6, False), (0.0, True)):
            levels = factor * timesteps[:, own]
            made.append(model(x, levels, words, positions=where, memory=cache, store=store, **how))
        cache.commit()
    return made + list(cache.snapshot().tensors.values())


@torch.no_grad()
def test_its_error_is_that_of_attention_in_eight_bits(monkeypatch):
    """As far from float32 as if all keys were encoded at each call, and twice the same bytes."""
    plain = film(model_of("lossless"), memory_of(True))
    cache = memory_of(True)
    coded = film(model_of("high"), cache)
    assert cache.asked == 3 * 3 * WIDE.num_layers
    for got, again in zip(coded, film(model_of("high"), memory_of(True)), strict=True):
        assert_bitwise_equal(got, again)

    def eight_bits(q, k, v, *, backend, quality="lossless"):
        if quality == "lossless":
            return real(q, k, v, backend=backend)
        return emulated(q, k, v, q.shape[-1] ** -0.5)

    real = wan_attention.attention
    monkeypatch.setattr(wan_attention, "attention", eight_bits)
    anew = film(model_of("high"), memory_of(False))
    for got, other, want in zip(coded, anew, plain, strict=True):
        error, usual = ((x - want).norm() / want.norm() for x in (got, other))
        assert error <= 1.5 * usual + 1e-3
    assert max((x - y).norm() / y.norm() for x, y in zip(anew, plain, strict=True)) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("quality", "attention"), [("lossless", "auto"), ("high", "sdpa"), ("lossless", "reference")]
)
def test_other_attention_does_not_ask_for_them(quality, attention):
    cache = memory_of(True)
    got = film(model_of(quality, attention), cache)
    assert cache.asked == 0
    for one, other in zip(got, film(model_of(quality, attention), memory_of(False)), strict=True):
        assert_bitwise_equal(one, other)


@torch.no_grad()
def test_attention_of_eight_bits_by_name_takes_them():
    named, cache = model_of("lossless"), memory_of(True)
    for block in named.blocks:
        block.self_attn.backend = "fa3-fp8"  # set late: a CPU has none
    got = film(named, cache)
    assert cache.asked == 3 * 3 * WIDE.num_layers
    for one, other in zip(got, film(model_of("high"), memory_of(True)), strict=True):
        assert_bitwise_equal(one, other)


@torch.no_grad()
def test_a_memory_that_has_none_gives_what_it_has():
    high, lossless = (film(model_of(quality), memory_of(False)) for quality in ("high", "lossless"))
    for one, other in zip(high, lossless, strict=True):
        assert_bitwise_equal(one, other)


def test_where_a_gradient_flows_or_keys_are_rotated_when_read_they_are_not_taken():
    cache = memory_of(True)
    film(model_of("high"), cache)  # gradients are enabled
    assert cache.asked == 0
    with torch.no_grad():
        model, cache = model_of("high"), memory_of(True)
        latents, timesteps, text = (x.float() for x in inputs(frames=2))
        cache.begin_block(0)
        places = torch.arange(2.0)
        model(latents, timesteps, text, positions=places, key_positions=places, memory=cache)
    assert cache.asked == 0


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention-3 needs a CUDA device")
def test_on_a_gpu_a_film_is_near_the_emulated_one_and_the_same_when_made_again():
    request = Request(device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=16)
    if not ATTENTION_OVER_CODES.explain(request)["fa3-fp8"].startswith("usable"):
        pytest.skip(ATTENTION_OVER_CODES.explain(request)["fa3-fp8"])
    model = model_of("high").cuda().bfloat16()
    first, again = (gpu_film(model) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_bitwise_equal(one, other)
    want = film(model_of("high"), memory_of(True))
    for got, expected in zip(first, want, strict=True):
        assert (got.float().cpu() - expected).norm() < 0.1 * expected.norm()


def gpu_film(model: WanTransformer) -> list[Tensor]:
    plain = cache_of(torch.bfloat16)
    cache = PagedKVCache(plain.layout, plain.policy, plain.codec, "cuda", windows=True)
    return film(model, cache)
