"""Start-up is compared with another environment's, and a process that fails is no measurement."""

import json
import sys
from pathlib import Path

import pytest

from longlive_recipes.bench.options import StartupOptions
from longlive_recipes.bench.run import prepare
from longlive_recipes.bench.startup import PARTS, compare, once


def test_a_record_has_both_commits_and_no_path(monkeypatch):
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, "sum(range(100_000))")
    commits = iter(["one\n", "two\n"])

    def quick(python: str, code: str) -> tuple[float, float, str]:
        return once(python, code)[:2] + (next(commits) if code not in PARTS.values() else "",)

    monkeypatch.setattr("longlive_recipes.bench.startup.once", quick)
    prepared = prepare("startup", StartupOptions(against=Path(sys.executable), repeats=2))
    record = prepared.measure()
    assert prepared.stem == "startup_cpu"
    assert list(record["parts"]) == list(PARTS)
    for rows in record["parts"].values():
        assert list(rows) == ["one", "two"]
        for row in rows.values():
            assert 0 < row["fastest_processor_seconds"] <= row["median_processor_seconds"]
            assert 0 < row["fastest_seconds"] <= row["median_seconds"]
    table = prepared.table(record)
    assert "## longlive --help" in table
    assert sys.executable not in json.dumps(record) + table
    assert "--set against=OTHER/bin/python --set repeats=2" in record["command"]


def test_a_process_that_fails_is_no_measurement():
    with pytest.raises(ValueError, match=r"ended with status 3 \(no such thing\), and nothing"):
        once(sys.executable, "import sys; print('no such thing', file=sys.stderr); sys.exit(3)")


def test_environments_of_one_commit_have_a_row_each(monkeypatch):
    turns = iter(range(1, 100))
    monkeypatch.setattr(
        "longlive_recipes.bench.startup.once", lambda python, code: (next(turns), 1.0, "same\n")
    )
    for rows in compare(["one", "other"], 2).values():
        assert list(rows) == ["same", "same, interpreter 2"]
        first, second = (row["fastest_seconds"] for row in rows.values())
        assert second == first + 1
