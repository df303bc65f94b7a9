"""The table of coverage: a run of the teacher is as far as chance, a collapsed student farther."""

import numpy as np

from benchmarks.coverage import main, table
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
    text = main([model, model, "--videos", "2", "--runs", "2", "--threads", "1", "--device", "cpu"])
    assert text.startswith("           student    chance  ratio\nstart_x ")
