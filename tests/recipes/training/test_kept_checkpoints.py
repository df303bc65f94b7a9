"""The last checkpoint of a run, and those of its best validations."""

import errno
import json
import math
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_recipes.configs.run import Run
from longlive_recipes.training.callbacks import RunProgress
from longlive_recipes.training.fit import check_best, fit
from longlive_recipes.training.kept_checkpoints import BestCheckpoints, LastCheckpoint
from longlive_recipes.training.run_folder import best_checkpoint, best_file, read_best
from longlive_recipes.training.schedule import TrainingSchedule
from tests.recipes.tiny_runs import (
    Stopped,
    Toy,
    ToyModule,
    assert_equal,
    quiet_run,
    stop_at,
)

SCORES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0}


class Scored(ToyModule):
    """A toy whose validations give what a test says."""

    scores = SCORES

    @property
    def measured(self):
        return ("score",)

    def validate(self):
        return {"score": self.scores[self.steps_taken]}


def best_run(folder, count=2, mode="min", **changes):
    settings = {"best_k": count, "best_metric": "score", "best_mode": mode}
    return quiet_run(folder, **(settings | {"checkpoint_minutes": 60.0} | changes))


def train(config, *, scores=SCORES, before=lambda step: None, resume=None):
    module = Scored(config, before)
    module.scores = scores
    fit(module, config.run, config, resume=None if resume is None else str(resume))
    return module


def kept(folder):
    """Steps and values as listed; the files that are there are those."""
    listed = read_best(folder)
    files = {file.name for file in (folder / "checkpoints" / "best").glob("*.ckpt")}
    assert files == {best_file(folder, step).name for step, _ in listed}
    return listed


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf]), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from(["min", "max"]),
)
def test_the_best_are_those_of_all_validations_however_they_come(
    tmp_path_factory, values, count, mode
):
    folder = tmp_path_factory.mktemp("run")
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    validation = SimpleNamespace(latest={}, step=0)
    best = BestCheckpoints(folder, validation, metric="score", mode=mode, count=count)
    trainer, module = SimpleNamespace(is_global_zero=True), SimpleNamespace(steps_taken=0)
    best.on_train_start(trainer, module)
    for place, value in enumerate(values):
        module.steps_taken = validation.step = place + 1
        validation.latest = {"score": value}
        best.on_train_batch_end(trainer, module, None, place, 0)
        if best.due:
            part = folder / "part"
            part.write_text(str(place + 1))
            os.replace(part, last)
            best.keep(last, place + 1)
    finite = [(place + 1, value) for place, value in enumerate(values) if math.isfinite(value)]
    sign = 1 if mode == "min" else -1
    wanted = sorted(finite, key=lambda one: (sign * one[1], one[0]))[:count]
    assert kept(folder) == wanted
    for step, _ in wanted:
        assert best_file(folder, step).read_text() == str(step)


def test_a_run_keeps_its_best_steps_and_the_last(tmp_path):
    train(Toy(run=best_run(tmp_path)))
    assert kept(tmp_path) == [(4, 1.0), (8, 1.0)]
    assert best_checkpoint(tmp_path) == best_file(tmp_path, 4)
    states = {step: torch.load(best_file(tmp_path, step), weights_only=True) for step in (4, 8)}
    assert [state["callbacks"]["Clock"]["steps"] for state in states.values()] == [4, 8]
    index = json.loads((tmp_path / "checkpoints" / "best" / "best.json").read_text())
    assert (index["metric"], index["mode"]) == ("score", "min")
    train(Toy(run=best_run(tmp_path / "high", 1, "max")))
    assert kept(tmp_path / "high") == [(2, 3.0)]


def test_a_run_that_was_stopped_and_resumed_keeps_the_same(tmp_path):
    train(Toy(run=best_run(tmp_path / "whole")))
    for step in (3, 5, 7):
        folder = tmp_path / str(step)
        config = Toy(run=best_run(folder))
        with pytest.raises(Stopped):
            train(config, before=stop_at(step))
        train(config, resume=folder)
        assert kept(folder) == kept(tmp_path / "whole")
        for kept_step in (4, 8):
            one, other = (
                torch.load(best_file(place, kept_step), weights_only=True)
                for place in (folder, tmp_path / "whole")
            )
            assert_equal(one["state_dict"], other["state_dict"], "weights")
            assert_equal(one["optimizer_states"], other["optimizer_states"], "optimizer")


def test_steps_that_are_taken_again_are_forgotten_and_fewer_may_be_kept(tmp_path):
    config = Toy(run=best_run(tmp_path, 3))
    train(config)
    assert [step for step, _ in kept(tmp_path)] == [4, 8, 6]
    early = best_file(tmp_path, 4)
    with pytest.raises(Stopped):
        train(config, resume=early, before=stop_at(5))
    assert [step for step, _ in kept(tmp_path)] == [4]
    fewer = replace(config, run=best_run(tmp_path, 1))
    train(fewer, resume=early, scores={6: 0.5, 8: 0.25})
    assert kept(tmp_path) == [(8, 0.25)]


def test_a_folder_of_a_sharded_checkpoint_is_kept_whole(tmp_path):
    slot = tmp_path / "checkpoints" / "slot"
    slot.mkdir(parents=True)
    (slot / "meta.pt").write_text("1")
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.symlink_to(slot.name)
    validation = SimpleNamespace(latest={"score": 1.0}, step=1)
    best = BestCheckpoints(tmp_path, validation, metric="score", mode="min", count=1)
    best.keep(last, 1)
    (slot / "meta.pt").unlink()
    assert (best_file(tmp_path, 1) / "meta.pt").read_text() == "1"
    validation.latest = {"score": 0.5}
    (slot / "meta.pt").write_text("2")
    best.keep(last, 2)
    assert kept(tmp_path) == [(2, 0.5)]


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    train(Toy(run=best_run(tmp_path)))
    assert [step for step, _ in kept(tmp_path)] == [4, 8]
    assert best_file(tmp_path, 8).stat().st_nlink == 1


def test_a_name_that_is_not_measured_is_refused_before_anything_is_written(tmp_path):
    config = Toy(run=best_run(tmp_path / "new", best_metric="scor"))
    message = r"run.best_metric='scor' is not measured; did you mean 'score'\? A validation of "
    with pytest.raises(ValueError, match=message + "this run measures score"):
        train(config)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="measures nothing that the recipe tells of"):
        check_best(config.run, ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best_k": 2}, "Run.best_k=2 and Run.best_metric=None: the best checkpoints"),
        ({"best_metric": "loss"}, "Run.best_k=0 and Run.best_metric='loss'"),
        ({"best_k": -1, "best_metric": "loss"}, "Run.best_k is at least 0"),
        ({"best_k": 1, "best_metric": ""}, "Run.best_metric is a text"),
        (
            {"best_k": 1, "best_metric": "loss", "best_mode": "least"},
            "Run.best_mode is one of min, max, got 'least'",
        ),
    ],
)
def test_settings_that_fit_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Run(output="runs/x", **settings)


def test_a_run_without_a_best_checkpoint_says_so(tmp_path):
    with pytest.raises(ValueError, match="has no best checkpoint: a run keeps some with"):
        best_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    (tmp_path / "checkpoints" / "best" / "best.json").write_text('{"kept": [3]}')
    with pytest.raises(ValueError, match="does not list the best checkpoints of a run"):
        best_checkpoint(tmp_path)


def test_a_checkpoint_is_due_after_its_minutes_at_the_end_and_on_sigterm(tmp_path, monkeypatch):
    from longlive_recipes.training import kept_checkpoints

    now, saved = [0.0], []
    monkeypatch.setattr(kept_checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
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
