"""Positions are a policy of the generator: absolute, or places in the window."""

from dataclasses import replace

import pytest
import torch

from longlive_core.kv_cache import (
    AbsolutePositions,
    PagedKVCache,
    PositionPolicy,
    RelativePositions,
)
from longlive_core.testing import assert_bitwise_equal
from longlive_models import LongLivePipeline
from longlive_models.generator import BlockGenerator
from tests.models.test_generator import PER_BLOCK, plan_of, watched
from tests.models.tiny_pipeline import tiny_pipeline


def placed(pipe: LongLivePipeline, positions: PositionPolicy) -> BlockGenerator:
    """The pipeline's generator, over a cache whose keys are placed by this policy."""
    made = pipe.generator([3], pipe.settings)
    layout = replace(made.cache.layout, rotated=positions.rotated)
    cache = PagedKVCache(layout, made.cache.policy, made.cache.codec)
    how = {"sampler": made.sampler, "latent_size": made.latent_size, "seeds": made.seeds}
    how["guidance"] = made.guidance
    return BlockGenerator(made.model, made.text, cache, positions=positions, **how)


def test_relative_positions_are_absolute_ones_until_the_window_is_full_and_then_stay():
    pipe = watched()
    pages = pipe.settings.window
    blocks, plan = pages + 3, plan_of(pipe, "a red circle", pages + 3)
    absolute, relative = (
        [made.latents for made in placed(pipe, policy).blocks([plan], blocks)]
        for policy in (AbsolutePositions(), RelativePositions())
    )
    for block in range(pages):
        torch.testing.assert_close(relative[block], absolute[block], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(relative[pages], absolute[pages], atol=1e-2)
    call = pipe.transformer.calls[-1]  # the last block's clean pass
    window = torch.arange(pages * PER_BLOCK, dtype=torch.float64)
    assert_bitwise_equal(call["positions"], window[-PER_BLOCK:])
    assert_bitwise_equal(call["key_positions"].sort().values, window)


def test_positions_and_cache_agree_on_where_keys_are_rotated():
    made = tiny_pipeline().generator([3], tiny_pipeline().settings)
    how = {"sampler": made.sampler, "latent_size": made.latent_size, "seeds": made.seeds}
    how["guidance"] = made.guidance
    with pytest.raises(ValueError, match=r"RelativePositions\(\) need .*rotated=False"):
        BlockGenerator(made.model, made.text, made.cache, positions=RelativePositions(), **how)
