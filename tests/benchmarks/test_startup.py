"""Start-up is compared with another environment's, and a process that fails is no measurement."""

import json
import sys

import pytest

from benchmarks.startup import PARTS, main, once


def test_a_record_has_both_commits_and_its_table(tmp_path, monkeypatch):
    for name in PARTS:
        monkeypatch.setitem(PARTS, name, "sum(range(100_000))")
    commits = iter(["one\n", "two\n"])

    def quick(python: str, code: str) -> tuple[float, float, str]:
        return once(python, code)[:2] + (next(commits) if code not in PARTS.values() else "",)

    monkeypatch.setattr("benchmarks.startup.once", quick)
    path = main(["--against", sys.executable, "--repeats", "2", "--results", str(tmp_path)])
    record = json.loads(path.read_text())
    assert path.name == "startup_cpu.json"
    assert list(record["parts"]) == list(PARTS)
    for rows in record["parts"].values():
        assert list(rows) == ["one", "two"]
        for row in rows.values():
            assert 0 < row["fastest_processor_seconds"] <= row["median_processor_seconds"]
            assert 0 < row["fastest_seconds"] <= row["median_seconds"]
    table = path.with_suffix(".md").read_text()
    assert "## longlive --help" in table and str(sys.executable) not in path.read_text() + table


def test_a_process_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="ended with status 3"):
        once(sys.executable, "import sys; sys.exit(3)")
