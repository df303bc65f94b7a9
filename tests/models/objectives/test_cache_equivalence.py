"""Teacher forcing equals generation block by block with a cache, for any film."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_models.objectives import shot_anchors, teacher_forcing_mask
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

PER_BLOCK = TINY.frames_per_block


@st.composite
def films(draw) -> tuple[int, Window, list[int], float]:
    """blocks, window, where shots begin, by how many frames a cut moves time."""
    blocks = draw(st.integers(1, 8))
    window = Window(pages=draw(st.sampled_from([3, 4])))
    cuts = sorted(draw(st.sets(st.integers(1, 7), max_size=3)))
    return blocks, window, [c for c in cuts if c < blocks], draw(st.sampled_from([0.0, 8.0, 2.5]))


@torch.no_grad()
@settings(max_examples=12)
@given(films(), st.booleans())
def test_the_masked_forward_is_the_cached_generation(film, one_text):
    blocks, window, cuts, offset = film
    frames = blocks * PER_BLOCK
    model = tiny_model()
    noisy, timesteps, text = inputs(frames=frames, segments=1 if one_text else blocks)
    clean, *_ = inputs(frames=frames, seed=1)
    shots = torch.tensor([sum(cut <= f // PER_BLOCK for cut in cuts) for f in range(frames)])
    positions = torch.arange(frames) + offset * shots

    anchors = shot_anchors(blocks, cuts)
    mask = teacher_forcing_mask(frames, TOKENS, PER_BLOCK, policy=window, shot_starts=anchors)
    trained = model(noisy, timesteps, text, clean=clean, mask=mask, positions=positions)

    cache = _cache(window)
    for block in range(blocks):
        own = slice(block * PER_BLOCK, (block + 1) * PER_BLOCK)
        prompt = model.embed_text(text if one_text else text[:, block : block + 1])
        how = {"positions": positions[own], "memory": cache}
        cache.begin_block(block)
        model(clean[:, :, own] + 1, timesteps[:, own], prompt, **how)  # a step before this one
        generated = model(noisy[:, :, own], timesteps[:, own], prompt, **how)
        zero = torch.zeros_like(timesteps[:, own])
        model(clean[:, :, own], zero, prompt, store=True, **how)
        cache.commit()
        if block in cuts:
            cache.start_shot()
        torch.testing.assert_close(generated, trained[:, :, own], rtol=0, atol=1e-11)


def _cache(window: Window) -> PagedKVCache:
    layout = CacheLayout(
        layers=TINY.num_layers,
        heads=TINY.num_heads,
        head_dim=TINY.head_dim,
        tokens_per_page=PER_BLOCK * TOKENS,
        samples=2,
    )
    return PagedKVCache(layout, window, PlainCodec(torch.float64))
