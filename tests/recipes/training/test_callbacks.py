"""The progress of a run, its record, its checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch

from longlive_recipes.training.callbacks import LastCheckpoint, Record, RunProgress
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
    trainer, module = SimpleNamespace(is_global_zero=True), SimpleNamespace(device="cpu")
    module.device = torch.device("cpu")
    Record(tmp_path, TrainingSchedule(steps=5, warmup_steps=0)).on_fit_start(trainer, module)
    first = json.loads((tmp_path / "run.json").read_text())
    assert first["recipe"] == "TrainingSchedule"
    assert first["config"]["steps"] == 5
    assert "resumed" not in first
    for step in (2, 4):
        resumed = {"checkpoint": "last.ckpt", "step": step}
        Record(tmp_path, TrainingSchedule(steps=5, warmup_steps=0), resumed=resumed).on_fit_start(
            trainer, module
        )
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["step"] for entry in record.pop("resumed")] == [2, 4]
    assert record == first


def test_a_checkpoint_is_due_after_its_minutes_at_the_end_and_on_sigterm(tmp_path, monkeypatch):
    from longlive_recipes.training import callbacks

    now, saved = [0.0], []
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer = SimpleNamespace(
        received_sigterm=False,
        save_checkpoint=lambda path, weights_only: saved.append(now[0]),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
    )
    progress = RunProgress(TrainingSchedule())
    keeper = LastCheckpoint(tmp_path / "last.ckpt", progress, minutes=1.0)
    module = torch.nn.Linear(1, 1)
    keeper.on_train_start(trainer, module)

    def step(seconds):
        now[0] += seconds
        keeper.on_train_batch_end(trainer, module, None, 0, 0)

    for _ in range(13):
        step(10)
    assert saved == [60, 120]
    progress.finished = True
    step(1)
    progress.finished, trainer.received_sigterm = False, True
    step(1)
    assert saved == [60, 120, 131, 132]
    keeper.on_train_end(trainer, module)


def test_a_checkpoint_of_numbers_that_are_none_replaces_nothing(tmp_path):
    saved = []
    trainer = SimpleNamespace(
        received_sigterm=False,
        save_checkpoint=lambda path, weights_only: saved.append(path),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
    )
    module = torch.nn.Linear(2, 1)
    progress = RunProgress(TrainingSchedule())
    progress.steps = 7
    keeper = LastCheckpoint(tmp_path / "last.ckpt", progress, minutes=0.0)
    keeper.on_train_batch_end(trainer, module, None, 0, 0)
    with torch.no_grad():
        module.weight[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"after step 7 are no finite numbers \(weight\)"):
        keeper.on_train_batch_end(trainer, module, None, 0, 0)
    assert len(saved) == 1
