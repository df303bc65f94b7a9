"""The script that holds `longlive plan` against a GPU, with a tiny model on a CPU."""

import runpy
from pathlib import Path

import pytest

from longlive_recipes.planning.memory import Choice
from tests.models.tiny_pipeline import SPEC

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plan_memory.py"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_every_choice_runs_with_random_weights(script):
    for weights, kv_cache in script["CHOICES"]:
        took = script["run"](SPEC, weights, kv_cache, "cpu", 2, lane="inline")
        assert min(took.denoise, took.decode) > 0
        assert took.between > 0.5 * (took.denoise + took.decode)


def test_the_choice_that_is_predicted_is_the_one_that_runs(script):
    made = Choice(weights="fp8", kv_cache="bf16", steps=2, guidance=False)
    assert script["chosen"](SPEC, "fp8", "bf16") == made


def test_a_table_has_a_line_for_each_choice(script, capsys):
    assert script["measure"](SPEC, "cpu")
    lines = capsys.readouterr().out.splitlines()
    each = 1 + len(script["CHOICES"])
    assert len(lines) == 2 * each + 1 and lines[1].startswith("bf16, bf16")
    assert lines[each] == "" and lines[each + 2].startswith("bf16, bf16")
