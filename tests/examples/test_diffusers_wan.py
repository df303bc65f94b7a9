"""Diffusers' Wan block by block over a cache is the plain model under a block-causal mask."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import CacheLayout, Int8PageCodec, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4PageCodec

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "diffusers_wan_with_cache.py"
HEIGHT, WIDTH, FRAME = 8, 12, 4 * 6  # a frame's latents and its tokens
WHOLE = PlainCodec(torch.float32)


def tiny_wan(head_dim: int):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=head_dim,
        num_layers=2,
        ffn_dim=64,
        text_dim=8,
    ).eval()


def block_causal(model, lengths: list[int], policy: Window) -> None:
    """Have the plain model attend under the dense mask of a window policy."""
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    block_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths) * FRAME)
    seen = torch.zeros(len(lengths), len(lengths), dtype=torch.bool)
    for block in range(len(lengths)):
        seen[block, list(policy.visible(block))] = True
    mask = seen[block_of][:, block_of]

    class Masked(WanAttnProcessor):
        def __call__(self, attn, x, context=None, attention_mask=None, rope=None):
            return super().__call__(attn, x, context, mask, rope)

    for block in model.blocks:
        block.attn1.set_processor(Masked())


@torch.no_grad()
def over_cache(model, cache: PagedKVCache, latents, text, lengths: list[int]) -> torch.Tensor:
    """The clean pass of every block; a noisy pass before it leaves no trace."""
    rope, out, start = runpy.run_path(str(EXAMPLE))["OwnFrames"](model, cache), [], 0
    for block, frames in enumerate(lengths):
        own = latents[:, :, start : start + frames]
        start += frames
        cache.begin_block(block, tokens=frames * FRAME)
        rope.begin(cache.frames(FRAME)[block], HEIGHT, WIDTH)
        model(torch.randn_like(own), torch.full((len(own),), 500), text)
        cache.begin_clean_pass()
        out.append(model(own, torch.zeros(len(own)), text).sample)
        cache.commit()
    return torch.cat(out, dim=2)


def compared(codec, head_dim: int, lengths: list[int], policy: Window):
    cached, plain = tiny_wan(head_dim), tiny_wan(head_dim)
    latents = torch.randn(2, 16, sum(lengths), HEIGHT, WIDTH)
    text = torch.randn(2, 5, 8)
    layout = CacheLayout(
        layers=2,
        heads=2,
        head_dim=head_dim,
        tokens_per_page=max(lengths) * FRAME,
        samples=2,
    )
    got = over_cache(cached, PagedKVCache(layout, policy, codec), latents, text, lengths)
    block_causal(plain, lengths, policy)
    with torch.no_grad():
        return got, plain(latents, torch.zeros(2), text).sample


@pytest.mark.parametrize("head_dim", [40, 72])
@pytest.mark.parametrize("lengths", [[2, 2, 2, 2, 2, 2], [1, 3, 3, 2, 3, 1]], ids=["even", "own"])
def test_wan_over_a_cache_is_block_causal_wan(head_dim, lengths):
    got, want = compared(WHOLE, head_dim, lengths, Window(pages=3, sink=1, shot_sink=0))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("codec", "most"),
    [
        (Int8PageCodec(dtype=torch.float32), 0.01),
        (Float8PageCodec(dtype=torch.float32), 0.03),
        (NVFP4PageCodec(dtype=torch.float32), 0.1),
    ],
    ids=["int8", "fp8", "nvfp4"],
)
def test_wan_over_an_encoded_cache_is_near(codec, most):
    got, want = compared(codec, 40, [2, 2, 2, 2], Window())
    assert 0 < float((got - want).norm() / want.norm()) < most


def test_the_example_runs(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out == "torch.Size([1, 16, 2, 8, 8])\n"


COMPILED = """
import sys
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, "examples")
from diffusers_wan_with_cache import OwnFrames
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from tests.examples.test_diffusers_wan import FRAME, HEIGHT, WIDTH, tiny_wan

model = tiny_wan(40)
layout = CacheLayout(layers=2, heads=2, head_dim=40, tokens_per_page=2 * FRAME, samples=2)
cache = PagedKVCache(layout, Window(), PlainCodec(torch.float32))
own_frames = OwnFrames(model, cache)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
text = torch.randn(2, 5, 8)
with torch.no_grad():
    for block in range(50):
        cache.begin_block(block)
        own_frames.begin(cache.frames(FRAME)[block], HEIGHT, WIDTH)
        latents, t = torch.randn(2, 16, 2, HEIGHT, WIDTH), torch.full((2,), 500)
        got = compiled(latents, t, text).sample
        torch.testing.assert_close(got, model(latents, t, text).sample)
        cache.begin_clean_pass()
        compiled(latents, torch.full((2,), 0), text)
        cache.commit()
        if block == 20:
            cache.start_shot()
graphs = counters["stats"]["unique_graphs"]
assert graphs <= 2, f"{graphs} graphs"
"""


@pytest.mark.slow
def test_the_whole_model_is_two_graphs_for_fifty_blocks():
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr[-3000:]
