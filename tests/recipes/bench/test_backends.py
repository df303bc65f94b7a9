"""A row for every backend: its error and speed, or why it has none."""

import pytest
import torch

from longlive_core.attention import ATTENTION
from longlive_recipes.bench import backends
from longlive_recipes.bench.preset_options import BackendsOptions
from longlive_recipes.bench.run import prepare

TOLD = BackendsOptions(preset="tiny", device="cpu", repeats=1)
ATTEND, MULTIPLY = "Attention over a full window", "Products, feed-forward's first linear"


def test_a_record_has_a_row_for_every_backend():
    prepared = prepare("backends", TOLD)
    assert prepared.stem == "tiny_backends_cpu"
    record = prepared.measure()
    attention = record["parts"][ATTEND]
    assert list(attention) == [backend.name for backend in ATTENTION.backends]
    assert attention["fa3"] == {"state": "it needs a CUDA device, not cpu"}
    assert attention["reference"]["state"] == "ran" and attention["reference"]["error"] < 1e-6
    products = record["parts"][MULTIPLY]
    assert products["bf16, torch"]["error"] < 0.01
    assert 0.01 < products["float8.matmul, reference"]["error"] < 0.06
    assert 0.06 < products["nvfp4.weight_matmul, decode"]["error"] < 0.2
    assert products["float8.block_matmul, reference"]["state"].startswith(
        "not timed: float8.matmul"
    )
    assert "| reference | ran |" in prepared.table(record)


def test_a_backend_that_is_far_off_is_not_timed(monkeypatch):
    right = backends.attention

    def wrong(q, k, v, *, backend):
        return right(q, k, v, backend=backend) * (1.5 if backend == "sdpa" else 1)

    monkeypatch.setattr(backends, "attention", wrong)
    rows = backends.measure(TOLD, torch.device("cpu"), "")["parts"][ATTEND]
    assert rows["sdpa"] == {"state": "not timed: 0.5 from float64"}
    assert rows["reference"]["state"] == "ran"


def test_one_that_compiles_for_minutes_is_tried_only_when_asked():
    trial = backends.Trial(
        name="slow",
        standing="usable when named: it compiles for minutes",
        prepare=lambda: lambda: torch.ones(2),
        some=lambda y: y,
        reference=lambda: torch.ones(2, dtype=torch.float64),
        kind="product",
        operations=2.0,
    )
    device = torch.device("cpu")
    row = backends._row(trial, TOLD, device)
    assert row["state"] == "usable when named: it compiles for minutes; --set slow=true tries it"
    row = backends._row(trial, BackendsOptions(preset="tiny", slow=True), device)
    assert row["state"] == "ran" and row["error"] == pytest.approx(0)
