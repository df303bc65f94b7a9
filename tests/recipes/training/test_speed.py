"""How fast a run is and how much memory it takes."""

from types import SimpleNamespace

import pytest
import torch

from longlive_recipes.training import speed
from longlive_recipes.training.log_tables import Table
from longlive_recipes.training.run_folder import read_table
from longlive_recipes.training.speed import Speed, peak_memory, told
from tests.recipes.tiny_runs import Stopped, Toy, quiet_run, stop_at, train_toy


def test_a_row_has_the_mean_of_the_steps_since_the_row_before(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: now[0]))
    table = Table(tmp_path / "speed.csv")
    progress = SimpleNamespace(finished=False, seconds=7.0)
    module = SimpleNamespace(
        steps_taken=0, run_progress=progress, device=torch.device("cpu"), frames_of_step=lambda: 30
    )
    trainer = SimpleNamespace(is_global_zero=True, loggers=[])
    measured = Speed(table, every=2)
    for step, seconds in enumerate((4.0, 1.0, 2.0, 1.0)):
        measured.on_train_batch_start(trainer, module, step, 0)
        now[0] += seconds
        module.steps_taken = step + 1
        measured.on_train_batch_end(trainer, module, None, step, 0)
        now[0] += 100.0  # a validation is no part of a step
    rows = read_table(table.path)
    assert rows["seconds_a_step"] == [(1, 4.0), (2, 1.0), (4, 1.5)]
    assert rows["frames_a_second"] == [(1, 7.5), (2, 30.0), (4, 20.0)]
    assert rows["seconds"][0] == (1, 7.0)
    assert rows["memory_gib"][-1][1] == pytest.approx(peak_memory(module.device) / 2**30, rel=0.2)


def test_a_resumed_run_measures_on_in_the_same_table(tmp_path):
    config = Toy(run=quiet_run(tmp_path))
    with pytest.raises(Stopped):
        train_toy(config, before=stop_at(5))
    train_toy(config, resume=tmp_path)
    rows = read_table(tmp_path / "speed.csv")
    assert [step for step, _ in rows["seconds"]] == list(range(1, 9))
    seconds = [value for _, value in rows["seconds"]]
    assert seconds == sorted(seconds)
    assert "frames_a_second" not in rows  # a line has no frames


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, ""),
        ({"seconds_a_step": 0.01234, "memory_gib": 1.234}, "12.3 ms a step, 1.2 GiB"),
        (
            {"seconds_a_step": 5.9312, "memory_gib": 22.13, "frames_a_second": 3.21},
            "5.93 s a step, 3.2 frames/s, 22 GiB",
        ),
        (
            {"seconds_a_step": 0.5, "memory_gib": 22.13, "frames_a_second": 30123.0},
            "500 ms a step, 30,123 frames/s, 22 GiB",
        ),
    ],
)
def test_the_bar_is_told_in_few_words(row, text):
    assert ", ".join(told(row)) == text


def test_the_memory_of_a_process_is_what_the_system_says():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(64 << 20, dtype=torch.uint8)
    assert peak_memory(torch.device("cpu")) >= max(before, int(held.sum()))
