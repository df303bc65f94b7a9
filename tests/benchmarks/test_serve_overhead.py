"""The server's benchmark at a tiny size: the same file by both, then a record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.tiny_pipeline import write_tiny_folder

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "benchmarks/serve_overhead.py", "--results", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record: dict = json.loads((tmp_path / "serve_overhead_cpu.json").read_text())
    return record


@pytest.mark.slow
def test_the_server_costs_little(tmp_path):
    record = run(tmp_path, "--seconds", "11", "--turns", "3")
    served = record["rows"]["longlive serve, a stream"]
    assert served["of_generate"] > 0.95 or served["cpu_of_generate"] < 1.05


def test_the_benchmark_leaves_a_record(tmp_path):
    model = write_tiny_folder(tmp_path / "model")
    record = run(tmp_path, "--model", str(model), "--seconds", "3", "--turns", "1")
    assert set(record["rows"]) == {"longlive generate", "longlive serve, a stream"}
    assert record["rows"]["longlive generate"]["of_generate"] == 1
    assert all(value > 0 for row in record["rows"].values() for value in row.values())
    assert "byte for byte" in (tmp_path / "serve_overhead_cpu.md").read_text()
