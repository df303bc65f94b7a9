"""The curves of training in four bits, at a tiny size: the same batches, one table, one picture."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from longlive_recipes.bench import nvfp4_curves
from longlive_recipes.bench.nvfp4_curves import BF16, Curve, CurveModule, rows, variants
from longlive_recipes.bench.options import CurvesOptions
from longlive_recipes.bench.run import prepare

TINY = CurvesOptions(
    model="tiny", steps=2, batch=2, clips=3, validation_clips=2, noises=2, at_once=1
)


def some(monkeypatch, *names: str) -> None:
    chosen = {name: one for name, one in variants().items() if name in names}
    monkeypatch.setattr(nvfp4_curves, "variants", lambda: chosen)


def test_every_rule_rounding_and_transform_is_there_once():
    found = variants()
    assert list(found)[0] == BF16
    assert not found.pop(BF16).quantizes
    told = {(one.gradient.rule, one.gradient.rounding, one.hadamard) for one in found.values()}
    assert len(found) == len(told) == 8


def test_runs_are_compared_in_a_table_and_a_picture(monkeypatch):
    some(monkeypatch, BF16, "four over six, stochastic, Hadamard", "amax 4, nearest, no Hadamard")
    prepared = prepare("nvfp4_curves", TINY)
    assert prepared.stem == "nvfp4_curves_cpu"
    parts: list[dict] = []
    record = prepared.measure(parts.append)
    assert [len(part["rows"]) for part in parts] == [1, 2, 3]
    assert [part["unfinished"].split()[3] for part in parts] == ["0", "0", "2"]
    assert parts[1]["rows"].items() <= record["rows"].items()
    assert "- not finished: all runs have 2 of 2 steps" in prepared.table(parts[2])
    assert prepared.picture is not None
    assert prepared.picture(parts[2]) == prepared.picture(record)
    plain, *others = record["rows"].values()
    assert plain["percent_above_bf16"] == 0
    assert all(row["percent_above_bf16"] != 0 for row in others)
    assert all(abs(row["percent_above_bf16"]) < 5 for row in others)  # two steps from one start
    assert [step for step, _ in record["curves"][BF16]] == [1, 2]
    assert set(record["validation_noise"][BF16]) == {"noise_1", "noise_2"}
    assert any("emulat" in line or "reference" in line for line in record["backends"])
    assert "| percent above bf16 |" in prepared.table(record)
    root = ElementTree.fromstring(prepared.picture(record))
    titles = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"validation loss", "percent above bf16", *record["rows"]} <= set(titles)


def test_the_same_run_twice_has_the_same_numbers(monkeypatch):
    some(monkeypatch, BF16)
    one, other = (prepare("nvfp4_curves", TINY).measure() for _ in range(2))
    assert one["validation_noise"] == other["validation_noise"]


def test_a_run_that_diverges_ends_alone_and_is_compared_where_it_ended(monkeypatch):
    lost = "amax 4, nearest, no Hadamard"
    some(monkeypatch, BF16, lost)
    right = CurveModule.training_step

    def step(self, number):
        found = right(self, number)
        if number and self.config.quantized.quantizes:
            found["loss"] = found["loss"] * float("nan")
        return found

    monkeypatch.setattr(CurveModule, "training_step", step)
    prepared = prepare("nvfp4_curves", TINY)
    record = prepared.measure()
    assert {name: row["steps"] for name, row in record["rows"].items()} == {BF16: 2, lost: 1}
    assert abs(record["rows"][lost]["percent_above_bf16"]) < 5
    assert f"{lost}: " in record["checked"]
    assert prepared.picture is not None
    assert prepared.picture(record).startswith("<svg")


@pytest.mark.slow
def test_runs_in_processes_have_the_same_numbers(monkeypatch):
    some(monkeypatch, BF16, "amax 4, stochastic, Hadamard")
    one, other = (
        prepare("nvfp4_curves", replace(TINY, at_once=count)).measure() for count in (1, 2)
    )
    assert one["validation_noise"] == other["validation_noise"]


def test_differences_are_of_pairs_under_one_noise():
    def curve(*noises: float) -> Curve:
        named = {f"noise_{place}": [(1, loss)] for place, loss in enumerate(noises)}
        return Curve(validation=[(1, 1.0)], noises=named, training=[(1, 2.0)], seconds_a_step=0.5)

    found = rows({BF16: curve(1.0, 2.0), "four bits": curve(1.01, 2.06)})
    assert found["four bits"]["percent_above_bf16"] == pytest.approx(2.0)
    assert found["four bits"]["standard_error"] == pytest.approx(1.0)
    assert found[BF16]["standard_error"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "5b"}, "model must be pocket or tiny, got '5b'"),
        ({"steps": 0}, "steps"),
        ({"noises": 0}, "noises"),
        ({"device": "tpu"}, "device must be cpu or cuda"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_as_many_steps_as_an_h200_takes_in_five_minutes():
    """All runs at once, at the pace of the record, of one that ended or that was stopped."""
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    [file] = results.glob("nvfp4_curves_cuda*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    pace = max(row["seconds_a_step"] for row in record["rows"].values())
    assert CurvesOptions().steps * pace < 300
