"""A tiny teacher trained on in two ways, packed, and judged in pairs."""

from dataclasses import replace

import pytest

from longlive_recipes import train_ar
from longlive_recipes.bench.options import ContinuedOptions
from longlive_recipes.bench.run import prepare
from tests.recipes.tiny_runs import ar_config, write_tiny_vae


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ContinuedOptions:
    folder = tmp_path_factory.mktemp("teacher")
    write_tiny_vae(folder / "vae")
    teacher = train_ar.run(ar_config(folder / "run", folder / "vae"))
    return ContinuedOptions(
        teacher=str(teacher),
        steps=1,
        batch=2,
        clips=2,
        pairs=3,
        seconds=0.5,
        evaluation_steps=1,
        evaluation_batch=3,
        at_once=1,
    )


def test_both_continuations_are_packed_and_judged_in_pairs(tiny):
    prepared = prepare("nvfp4_continued", tiny)
    parts: list[dict] = []
    record = prepared.measure(parts.append)
    trained, half = parts
    assert trained["validation_loss"] == half["validation_loss"] == record["validation_loss"]
    assert (trained["suites"], "unfinished" in record) == ({}, False)
    seen = half["suites"]["seen"]["shape"]
    assert seen["one"] == seen["other"] == record["suites"]["seen"]["shape"]["one"]
    assert "- not finished: bf16 stands on both sides" in prepared.table(half)
    assert prepared.stem == "nvfp4_continued_cpu"
    assert {name: suite["videos"] for name, suite in record["suites"].items()} == {
        "seen": 2,
        "heldout": 1,
    }
    assert record["one"]["model_sha256"] != record["other"]["model_sha256"]
    assert record["one"]["config"]["weights"] == "nvfp4"
    losses = record["validation_loss"]
    assert losses["bf16"] != losses["nvfp4"] == pytest.approx(losses["bf16"], rel=0.1)
    table = prepared.table(record)
    assert "| seen | 2 | shape |" in table
    assert "--set pairs=3" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "nowhere"}, "there is no model 'nowhere'"),
        ({"pairs": 2}, "pairs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weights": "nvfp3"}, "weights='nvfp3' is no precision"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message, tiny):
    with pytest.raises(ValueError, match=message):
        prepare("nvfp4_continued", replace(tiny, **changes))
