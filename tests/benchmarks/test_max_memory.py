"""The script that holds `--max-memory` against a GPU, with a tiny model on a CPU."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longlive_models.text import UMT5Config
from longlive_recipes.planning.memory import Choice
from tests.models.tiny_pipeline import SPEC

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "max_memory.py"
UMT5 = UMT5Config(
    vocab_size=40, dim=16, dim_attn=12, dim_ffn=14, num_heads=3, num_layers=2, text_len=8
)
PLAIN = Choice(weights="bf16", kv_cache="bf16", steps=2, guidance=True)


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"offload": True, "text_encoder": "offload"},
        {"weights": "nvfp4", "kv_cache": "nvfp4", "vae_tiles": 2, "vae_latents": 1},
        {"beside": False, "vae_tiles": 2, "vae_latents": 1},
    ],
)
def test_what_can_be_picked_runs_with_random_weights(script, how):
    pipe = script["build"](SPEC, UMT5, replace(PLAIN, **how), "cpu")
    assert pipe.runtime.lane == "inline", "as a CPU's is in any case"
    assert pipe.text_place == how.get("text_encoder", "device")
    one, two = (pipe.text.encode([text]) for text in ("anything", "another thing"))
    assert one.shape == (1, 8, 16) and not torch.equal(one, two)
    row = script["ran"](pipe, "cpu")
    assert row["fits"] and row["denoise"] > 0 and row["decode"] > 0
