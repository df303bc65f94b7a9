"""Sizes: what is refused, and what the presets amount to."""

import json
from dataclasses import replace

import pytest
import torch

from longlive_models.wan import POCKET, WAN_5B, WanConfig, WanTransformer


@pytest.mark.parametrize("config", [WAN_5B, POCKET], ids=["5b", "pocket"])
def test_a_config_survives_json(config):
    assert WanConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_field_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="no key 'num_layer'; did you mean 'num_layers'"):
        WanConfig.from_dict({**POCKET.to_dict(), "num_layer": 3})


def test_missing_fields_are_named():
    values = POCKET.to_dict()
    del values["dim"], values["text_len"]
    with pytest.raises(ValueError, match="lacks dim, text_len"):
        WanConfig.from_dict(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 100}, "heads of one even width, got dim=100 over num_heads=8"),
        ({"dim": 24}, "multiple of 16"),
        ({"freq_dim": 65}, "must be even, got 65"),
        ({"patch_size": (2, 2, 2)}, r"\(1, rows, columns\), got \(2, 2, 2\)"),
        ({"num_layers": 0}, "num_layers is at least 1, got 0"),
        ({"eps": 0.0}, "eps is above 0, got 0.0"),
        ({"text_len": 0}, "text_len is at least 1, got 0"),
        ({"frames_per_block": 0}, "frames_per_block is at least 1, got 0"),
        ({"patch_size": (1, 0, 2)}, "patch_size is at least 1, got 0"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(POCKET, **change)


def test_a_frame_that_does_not_divide_into_patches_is_refused():
    assert WAN_5B.tokens_per_frame(44, 80) == 880
    with pytest.raises(ValueError, match="45 by 80 do not divide into patches of 2 by 2"):
        WAN_5B.tokens_per_frame(45, 80)


def test_the_presets_have_the_published_and_the_promised_sizes():
    with torch.device("meta"):
        large, pocket = WanTransformer(WAN_5B), WanTransformer(POCKET)
    sizes = [p.numel() for p in large.state_dict().values()]
    assert (len(sizes), sum(sizes)) == (825, 4_999_787_712)
    assert sum(p.numel() for p in pocket.parameters()) <= 16_000_000
    assert POCKET.head_dim == 48


@pytest.mark.parametrize("change", [{}, {"qk_norm": False}, {"cross_attn_norm": False}], ids=str)
def test_parameters_are_counted_before_any_is_made(change):
    config = replace(POCKET, **change)
    with torch.device("meta"):
        made = WanTransformer(config)
    assert config.parameters == sum(p.numel() for p in made.parameters())


def test_what_a_config_leaves_out_is_the_published_models():
    """Blocks of 8 latent frames, patches of 1 x 2 x 2, rotary base 10,000."""
    needed = "dim ffn_dim num_heads num_layers in_channels out_channels text_dim text_len freq_dim"
    plain = WanConfig(**{name: getattr(POCKET, name) for name in needed.split()})
    assert (plain.frames_per_block, plain.patch_size) == (8, (1, 2, 2))
    assert (plain.rope_theta, plain.eps) == (10_000, 1e-6)
    assert plain.cross_attn_norm and plain.qk_norm
