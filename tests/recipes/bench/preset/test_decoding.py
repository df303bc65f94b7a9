"""Frames against the plain path's: what is outside the tier is said, nothing is left changed."""

import pytest
import torch

from longlive_models.runtime import Runtime
from longlive_models.vae import DecodeOptions
from longlive_recipes.bench.preset.decoding import DecodeError, decode_error, plain_decoding
from longlive_recipes.bench.preset.models import build, preset_of, unfuse_, with_cache
from longlive_recipes.bench.preset.variants import main_variants

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe():
    [variant] = main_variants(("lossless",), False)
    return build(preset_of("tiny", CPU), Runtime.choose(variant.runtime("cpu")))


def latents(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, 2, 4, 4, generator=generator)


def test_pieces_and_the_way_back_are_as_they_were(pipe):
    how = DecodeOptions(latents=1)
    pipe.vae.decode_with_(how)
    error = decode_error(pipe, latents(1), latents(2))
    assert pipe.vae.decoding is how
    assert error.problem is None and error.same
    assert 0 <= error.mean < 0.01 and error.near == 1


def test_other_frames_are_outside_the_tier(pipe, monkeypatch):
    right = type(pipe.vae).decode_block

    def wrong(self, latents, state=None):
        video, after = right(self, latents, state)
        return video + 0.01 * (self.decoding.backend != "modules"), after

    monkeypatch.setattr(type(pipe.vae), "decode_block", wrong)
    pipe.vae.decode_with_(DecodeOptions())
    problem = decode_error(pipe, latents(1), latents(2)).problem
    assert problem is not None and "levels off" in problem


def test_each_way_to_be_outside_is_named():
    assert DecodeError(same=True, mean=0.1, near=0.9999).problem is None
    assert "other bits" in str(DecodeError(same=False, mean=0, near=1).problem)
    assert "0.3 levels off" in str(DecodeError(same=True, mean=0.3, near=1).problem)
    assert "99.8000% within 2" in str(DecodeError(same=True, mean=0.1, near=0.998).problem)


def test_the_plain_path_decodes_a_block_at_once_and_fuses_nothing(pipe):
    unfuse_(pipe, written_out=False)
    assert pipe.vae.decoding == plain_decoding(2) == DecodeOptions(latents=2, backend="modules")
    assert {block.fused for block in pipe.transformer.blocks} == {"torch"}


def test_another_form_of_cache_shares_the_parts(pipe):
    other = with_cache(pipe, "nvfp4")
    assert other.transformer is pipe.transformer and other.vae is pipe.vae
    assert (other.runtime.kv_cache, pipe.runtime.kv_cache) == ("nvfp4", "bf16")
