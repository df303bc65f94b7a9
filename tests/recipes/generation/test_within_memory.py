"""What a run picks for a bound of memory is what a plan picks, and what cannot be is told how."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from longlive_recipes.configs.generate import Generate
from longlive_recipes.configs.plan import PlanWishes
from longlive_recipes.configs.serve import Limits, Serve
from longlive_recipes.generation import within_memory as module
from longlive_recipes.generation.within_memory import within_memory
from longlive_recipes.plan import run
from longlive_recipes.planning.hardware import GIB, GPUS

PICKED = ("weights", "kv_cache", "vae_latents", "vae_tiles", "offload", "text_encoder")
MODEL = "LongLive-2.0-5B"


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch):
    """This machine has an H200, as far as what is picked knows."""
    monkeypatch.setattr(module, "here", lambda device, rates: GPUS["h200"])


@pytest.mark.parametrize(
    ("size", "how"),
    [
        *product(("14GB", "16GB", "24GB", "40GB", "200GB"), ({}, {"quality": "high"})),
        ("12GB", {}),
        ("12GB", {"lane": "thread"}),
        ("20GB", {"weights": "bf16"}),
        ("20GB", {"kv_cache": "fp8", "vae_tiles": 4}),
        ("48GB", {"text_encoder": "device", "guidance": 3.0}),
    ],
)
def test_a_run_and_a_plan_never_disagree(size, how):
    config, lines = within_memory(Generate(model=MODEL, max_memory=size, **how))
    plan = run(PlanWishes(gpu="h200", max_memory=size, **how))
    assert plan.fits
    for name in PICKED:
        assert getattr(config, name) == getattr(plan.choice, name), name
    assert config.lane == how.get("lane", "auto" if plan.choice.beside else "inline")
    for name, value in how.items():
        assert getattr(config, name) == value, "what was given stays"
    assert config.max_memory is None
    assert lines[0].startswith(f"within {size}: ")
    assert all(option in lines[0] for option in plan.picked)
    assert f"{plan.memory.needed / GIB:.1f} GiB at most" in lines[0]


def test_without_a_bound_nothing_changes():
    config = Generate(model=MODEL)
    assert within_memory(config) == (config, ())


def test_what_cannot_be_is_refused_with_what_would_make_it_fit():
    with pytest.raises(ValueError, match="max_memory='8GB' leaves 7.2 GiB of H200, and Long") as no:
        within_memory(Generate(model=MODEL, max_memory="8GB"))
    assert "The smallest change that makes it fit: " in str(no.value)
    given = {"weights": "bf16", "kv_cache": "bf16", "text_encoder": "device", "offload": True}
    with pytest.raises(ValueError, match="with every saving that is left to it") as no:
        within_memory(Generate(model=MODEL, max_memory="20GB", **given))
    assert "--text-encoder offload" in str(no.value), "advice changes what was given, no run does"
    with pytest.raises(ValueError, match=r"No change that is known here makes it fit: allow \d+GB"):
        within_memory(Generate(model=MODEL, max_memory="1GB"))


def test_every_session_of_a_server_counts():
    few = Serve(model=MODEL, max_memory="40GB", limits=Limits(sessions=1))
    many = replace(few, limits=Limits(sessions=3))
    one, three = (within_memory(c, videos=c.limits.sessions)[0] for c in (few, many))
    assert one.kv_cache == "bf16" and three.kv_cache != "bf16"
    with pytest.raises(ValueError, match="--sessions 1"):
        within_memory(few, videos=40)
    with pytest.raises(ValueError, match="offer=.* loads it more than once"):
        Serve(model=MODEL, max_memory="40GB", offer=("nvfp4",))


def test_no_more_is_taken_than_there_is():
    config, lines = within_memory(Generate(model=MODEL, max_memory="900GB"))
    assert f"{(GPUS['h200'].memory - GPUS['h200'].reserved) / GIB:.1f} GiB" in lines[0]
    assert config.text_encoder == "device" and not config.offload


@pytest.mark.parametrize(
    ("lane", "apart"),
    [("auto", False), ("inline", False), ("device:cpu", False), ("device:cpu:0", False)],
)
def test_a_lane_on_the_same_device_does_not_decode_apart(lane, apart):
    assert module.wishes_of(Generate(device="auto", lane=lane)).decode_apart is apart


def test_a_lane_on_another_device_decodes_apart(monkeypatch):
    there = SimpleNamespace(device=torch.device("cuda"), decode_device=torch.device("cuda:1"))
    monkeypatch.setattr(module.Runtime, "choose", lambda config: there)
    assert module.wishes_of(Generate()).decode_apart
    there.decode_device = torch.device("cuda:0")
    assert not module.wishes_of(Generate()).decode_apart
