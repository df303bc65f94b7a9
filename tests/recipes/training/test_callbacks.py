"""The progress of a run, its record, its checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins.precision import Precision
from torch import nn

from longlive_recipes.training.callbacks import Record, RunProgress
from longlive_recipes.training.schedule import TrainingSchedule


def test_a_run_ends_with_its_last_step():
    progress = RunProgress(TrainingSchedule(steps=3, warmup_steps=0))
    for step in range(4):
        trainer = SimpleNamespace(should_stop=False, world_size=1)
        progress.on_train_batch_end(trainer, None, None, step, 0)
        assert progress.steps == step + 1
        assert progress.share == pytest.approx(min(1, (step + 1) / 3))
        assert progress.finished == trainer.should_stop == (step >= 2)


def test_the_steps_of_older_checkpoints_are_those_that_lightning_counted():
    progress = RunProgress(TrainingSchedule(steps=30, warmup_steps=0))
    older = {"global_step": 7, "callbacks": {"Clock": {"seconds": 2.5}}}
    progress.on_load_checkpoint(None, None, older)
    progress.load_state_dict(older["callbacks"]["Clock"])
    assert progress.steps == 7
    assert progress.state_dict() == {"seconds": 2.5, "steps": 7}
    newer = {"global_step": 12, "callbacks": {"Clock": {"seconds": 2.5, "steps": 8}}}
    progress.on_load_checkpoint(None, None, newer)
    assert progress.steps == 8


def test_a_run_is_recorded_and_so_is_that_it_was_resumed(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, precision_plugin=Precision())
    module = nn.Linear(2, 2)
    module.device = torch.device("cpu")
    Record(tmp_path, TrainingSchedule(steps=5, warmup_steps=0)).on_fit_start(trainer, module)
    first = json.loads((tmp_path / "run.json").read_text())
    assert first["recipe"] == "TrainingSchedule"
    assert first["config"]["steps"] == 5
    assert "resumed" not in first
    assert "backends" not in first  # of plain layers there is nothing to say
    for step in (2, 4):
        resumed = {"checkpoint": "last.ckpt", "step": step}
        Record(tmp_path, TrainingSchedule(steps=5, warmup_steps=0), resumed=resumed).on_fit_start(
            trainer, module
        )
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["step"] for entry in record.pop("resumed")] == [2, 4]
    assert record == first
