"""The compiled cache's benchmark at a tiny size: right outputs first, then a record."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ("--tokens", "8", "--heads", "2", "--head-dim", "16", "--layers", "1", "--blocks", "2")


def run(*arguments: str) -> subprocess.CompletedProcess:
    """In a process of its own: the shape checks of the tests are Python that nothing compiles."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_every_kind_is_timed_beside_the_concatenated_one(tmp_path):
    how = ("--backend", "aot_eager", "--steps", "1", "--samples", "2", "--results", str(tmp_path))
    done = run("benchmarks/compiled_cache.py", *TINY, *how)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "compiled_cache_cpu.json").read_text())
    kinds = ["concatenated", "paged, plain", "paged, int8", "paged, fp8", "paged, nvfp4"]
    assert list(record["rows"]) == kinds
    assert record["rows"]["concatenated"]["of_the_concatenated"] == 1
    assert sum(record["rows"][kind]["graphs"] for kind in kinds[1:]) <= 2
    assert "paged, nvfp4" in (tmp_path / "compiled_cache_cpu.md").read_text()


WRONG = """
import sys

sys.path.insert(0, "benchmarks")
import compiled_cache as benchmark

benchmark.NEAR["paged, plain"] = -1
benchmark.main()
"""


def test_wrong_outputs_are_not_timed(tmp_path):
    code = WRONG.replace(
        "main()", f"main({[*TINY, '--backend', 'eager', '--results', str(tmp_path)]})"
    )
    done = run("-c", code)
    assert "AssertionError: paged, plain: outputs are" in done.stderr
    assert not list(tmp_path.iterdir())
