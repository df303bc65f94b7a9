"""The table of coverage: a run of the teacher is as far as chance, a collapsed student farther."""

import json

import numpy as np

from benchmarks.coverage import main, rows, table
from longlive_recipes.moving_shapes.coverage import FreeTraits
from tests.models.tiny_pipeline import write_tiny_folder


def run(seed: int, spread: float = 1.0) -> list[FreeTraits | None]:
    rng = np.random.default_rng(seed)
    names = ("start_x", "start_y", "speed", "size", "saturation")
    return [
        FreeTraits(**{name: 0.5 + spread * (rng.random() - 0.5) for name in names})
        for _ in range(400)
    ]


def ratios(text: str) -> list[float]:
    return [float(line.split()[-1]) for line in text.splitlines()[1:5]]


def test_another_run_of_the_teacher_is_within_the_bar_and_a_collapsed_student_is_not():
    teacher = [run(seed) for seed in range(5)]
    assert all(ratio < 1.5 for ratio in ratios(table(run(9), teacher)))
    assert all(ratio > 3 for ratio in ratios(table(run(9, spread=0.3), teacher)))


def test_it_measures_models(tmp_path):
    model = str(write_tiny_folder(tmp_path))
    how = ["--videos", "2", "--runs", "2", "--threads", "1", "--device", "cpu"]
    text = main([model, model, *how, "-o", str(tmp_path / "out")])
    assert text.startswith("           student    chance  ratio\nstart_x ")
    record = json.loads((tmp_path / "out" / "pocket_coverage_cpu.json").read_text())
    assert list(record["rows"]) == ["start_x", "start_y", "speed", "size"]
    assert [len(run) for run in record["traits"]] == [2, 2, 2]
    assert "unfinished" not in record


def test_one_run_of_the_teacher_has_distances_and_no_yardstick():
    found = rows(run(9), [run(0)])
    assert all(row["student"] > 0 for row in found.values())
    assert all(np.isnan(row["ratio"]) for row in found.values())
