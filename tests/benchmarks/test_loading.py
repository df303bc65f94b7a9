"""The benchmark of loading at a tiny size, this tree beside itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_builds_load_what_was_written(tmp_path):
    how = ("--device", "cpu", "--layers", "1", "--dim", "128", "--repeats", "1")
    where = ("--folder", str(tmp_path), "--earlier", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading", *how, *where],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| earlier build |" in done.stdout
    assert "| this build |" in done.stdout
    assert "times faster" in done.stdout
    assert not list(tmp_path.iterdir())
