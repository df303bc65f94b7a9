"""Steps that run blocks again are compared with one another before they are timed."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from longlive_models.wan import recomputation
from longlive_recipes.bench import training_step
from longlive_recipes.bench.catalog import BENCHMARKS
from longlive_recipes.bench.options import ContinuedOptions, CurvesOptions, TrainingStepOptions
from longlive_recipes.bench.run import prepare
from longlive_recipes.bench.training_step import COMPILED, EIGHT, KEPT, TODAY

RUN = "from longlive_cli.main import app; app()"
SMALL = TrainingStepOptions(
    layers=1, heads=2, head_dim=32, ffn=32, latent_frames=16, height=16, width=16, repeats=1
)


def test_all_ways_are_checked_and_timed():
    prepared = prepare("training_step", SMALL)
    record = prepared.measure()
    assert prepared.stem == "training_step_cpu"
    assert list(record["rows"]) == [TODAY, KEPT, EIGHT]
    for name, row in record["rows"].items():
        assert row["seconds"] > 0
        exact = row["loss_difference"] == row["gradient_difference"] == 0
        assert exact == (name != EIGHT)
    assert 0.005 < record["rows"][EIGHT]["gradient_difference"] < 0.1
    assert "float8.matmul: reference on cpu" in record["products"]
    assert record["rows"][TODAY]["times_faster"] == 1
    assert "| times faster |" in prepared.table(record)


def test_a_wrong_gradient_is_not_timed(monkeypatch):
    right = recomputation.KeptAttention.gradients

    def wrong(self, operands, grad):
        return tuple(1.01 * found for found in right(self, operands, grad))

    monkeypatch.setattr(recomputation.KeptAttention, "gradients", wrong)
    with pytest.raises(AssertionError, match=f"{KEPT}: gradient_difference .* more than 1e-05"):
        prepare("training_step", SMALL).measure()


def test_ways_that_are_not_compiled_are_kept_where_a_compiler_fails(monkeypatch):
    def broken(function, wanted):
        def fails(*given, **named):
            raise RuntimeError("no compiler")

        return fails

    monkeypatch.setattr(training_step, "maybe_compile", broken)
    prepared = prepare("training_step", replace(SMALL, compiled=True))
    parts: list[dict] = []
    with pytest.raises(RuntimeError, match="no compiler"):
        prepared.measure(parts.append)
    [part] = parts
    assert list(part["rows"]) == [TODAY, KEPT, EIGHT]
    assert "- not finished: compiled ways are still to come" in prepared.table(part)


@pytest.mark.slow
def test_a_compiled_step_is_checked_and_timed():
    """In a process of its own: checked shapes cannot be traced."""
    options = ("compiled=true", *(f"{name}=1" for name in ("layers", "heads", "repeats")))
    options += ("head_dim=32", "ffn=32", "latent_frames=16", "height=16", "width=16")
    words = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-c", RUN, "bench", "training_step", "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(done.stdout)
    both = [KEPT + COMPILED, EIGHT + COMPILED]
    assert list(record["rows"]) == [TODAY, KEPT, EIGHT, *both]
    assert 0 < record["rows"][EIGHT + COMPILED]["gradient_difference"] < 0.1
    assert record["rows"][KEPT + COMPILED]["gradient_difference"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"compiled": 1}, "compiled"),
        ({"layers": 0}, "layers"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
@pytest.mark.parametrize("options", [TrainingStepOptions, CurvesOptions, ContinuedOptions])
def test_a_gpu_that_is_not_there_is_refused(options):
    names = {one.name for one in BENCHMARKS.values() if type(one.options) is options}
    [name] = names
    with pytest.raises(ValueError, match=f"{name} on cuda needs a GPU"):
        prepare(name, options(device="cuda"))
