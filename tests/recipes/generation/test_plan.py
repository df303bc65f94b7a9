"""What a plan decides is what its record and its snapshots hold: nothing is left to a machine."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from longlive_models import LongLivePipeline, Storyboard
from longlive_models.lora import LoRAConfig, add_lora, save_lora
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


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"steps": 2}, "fewer steps make coarser shapes"),
        ({"steps": 8}, "more steps take longer"),
        ({"steps": (8, 2)}, "fewer steps make coarser shapes, more steps take longer"),
        ({"guidance": 2.0}, "guidance 2 runs the model 2 times a step in place of 1"),
        ({"sampler": "unipc"}, "the sampler unipc goes from step to step in another way"),
    ],
)
def test_what_a_student_was_not_trained_for_is_said(chosen, said, tmp_path):
    [note] = plan(Generate(device="cpu", **chosen), [job()], tmp_path / "v.mp4").notes
    assert note.startswith("the model is a student of distillation, trained for sampler few_step")
    assert f"steps 4 and guidance 1: {said}" in note


def test_nothing_is_said_of_what_a_student_was_trained_for(tmp_path):
    wanted = Generate(device="cpu", steps=4, guidance=1.0, sampler="few_step")
    assert plan(wanted, [job()], tmp_path / "v.mp4").notes == ()


def test_nothing_is_said_of_a_student_with_adapters(tmp_path):
    pipe = LongLivePipeline.from_pretrained("pocket", device="cpu")
    add_lora(pipe.transformer, LoRAConfig(rank=1, alpha=1.0, targets=("q",)))
    save_lora(pipe.transformer, tmp_path / "style")
    wanted = Generate(device="cpu", lora=(str(tmp_path / "style"),), guidance=2.0)
    assert plan(wanted, [job()], tmp_path / "v.mp4").notes == ()
