"""A fork is its parent in all that makes blocks: guidance, negative prompt, time and positions."""

from dataclasses import replace

import pytest
import torch

from longlive_core.kv_cache import AbsolutePositions, PagedKVCache, RelativePositions, Window
from longlive_core.testing import assert_bitwise_equal
from longlive_models.diffusion import BlockSampler
from longlive_models.generator import BlockGenerator
from tests.models.tiny_pipeline import tiny_pipeline

SMALL_WINDOW = Window(pages=2, sink=0, shot_sink=0)  # once full, its places are no block's numbers
PLAIN = {
    "guidance": 1.0,
    "negative_prompt": "",
    "t_scale": 1.0,
    "positions": AbsolutePositions(),
    "seeds": [3],
    "steps": 2,
}
OWN = {
    "guidance": 2.5,
    "negative_prompt": "the blue square",
    "t_scale": 0.5,
    "positions": RelativePositions(),
    "seeds": [4],
    "steps": 3,
}


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def generator(pipe, **changes) -> BlockGenerator:
    how = {**PLAIN, **changes}
    branches = 1 if how["guidance"] == 1 else 2
    layout = replace(
        pipe.spec.cache_layout(branches * len(how["seeds"])), rotated=how["positions"].rotated
    )
    sampler = BlockSampler(name="unipc", steps=how.pop("steps"), shift=5.0)
    cache = PagedKVCache(layout, SMALL_WINDOW, pipe.runtime.codec())
    size = pipe.spec.latent_size
    return BlockGenerator(
        pipe.transformer, pipe.text, cache, sampler=sampler, latent_size=size, **how
    )


def blocks(made: BlockGenerator, pipe, first: int, last: int) -> list[torch.Tensor]:
    plan = pipe.plan("a red circle", seconds=9)
    return [made.generate(n, [plan.block(n)]).latents for n in range(first, last)]


@pytest.mark.parametrize("field", OWN)
def test_a_fork_keeps_what_its_parent_was_made_with(pipe, field):
    """Each field changes the video, so that a fork without it would go on otherwise."""
    own = {field: OWN[field], **({"guidance": 2.0} if field == "negative_prompt" else {})}
    other = {**own, field: PLAIN[field]}
    parent, plain = generator(pipe, **own), generator(pipe, **other)
    blocks(parent, pipe, 0, 2)
    blocks(plain, pipe, 0, 2)
    fork = parent.fork()
    [wanted], [got] = blocks(parent, pipe, 2, 3), blocks(fork, pipe, 2, 3)
    assert_bitwise_equal(got, wanted)
    assert not torch.equal(blocks(plain, pipe, 2, 3)[0], wanted)


def test_a_fork_before_the_first_block_has_its_image(pipe):
    image = torch.randn(1, 4, 1, *pipe.spec.latent_size)
    parent = pipe.generator([3], pipe.settings, image=image)
    [got], [wanted] = blocks(parent.fork(), pipe, 0, 1), blocks(parent, pipe, 0, 1)
    assert_bitwise_equal(got, wanted)
    assert_bitwise_equal(got[:, :, :1], image)
