"""What a plan decides is what its record and its snapshots hold: nothing is left to a machine."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from longlive_models import Storyboard
from longlive_recipes.configs.generate import Generate, VideoJob
from longlive_recipes.generation.plan import plan, settled
from tests.models.tiny_pipeline import write_tiny_folder

ANY = {"linear": "auto", "text_encoder": "auto", "max_memory": None}
"""What each machine decides anew: it changes no frame, or no longer than until it is decided."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("tiny"))


def job() -> VideoJob:
    return VideoJob(name="a", story=Storyboard.of("a red circle"), seed=3)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_settled_config_leaves_no_choice(model, tmp_path, name):
    planned = plan(Generate(model=str(model), seconds=1.0), [job()], tmp_path / name)
    config = settled(planned)
    assert {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) in ("auto", None)
    } == ANY | ({} if name == "a.mp4" else {"crf": None})
    assert (config.device, config.lane, config.kv_cache) == ("cpu", "inline", "fp32")
    assert (config.steps, config.guidance, config.fps) == (2, 1.5, 8)


def test_a_settled_config_plans_the_same_video(model, tmp_path):
    wanted = Generate(model=str(model), device="cpu", seconds=1.0, lane="thread", crf=20, fps=4)
    planned = plan(wanted, [job()], tmp_path / "a.mp4")
    again = plan(settled(planned), [job()], tmp_path / "a.mp4")
    assert replace(again, config=wanted) == planned
    assert settled(again) == settled(planned)
    assert (again.lane, again.crf, again.fps) == ("thread", 20, 4)


def test_a_settled_model_is_found_from_every_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    planned = plan(Generate(model=model.name), [job()], tmp_path / "a.mp4")
    assert settled(planned).model == str(model.resolve())
    pocket = plan(Generate(), [job()], tmp_path / "a.mp4")
    assert settled(pocket).model == "pocket"
