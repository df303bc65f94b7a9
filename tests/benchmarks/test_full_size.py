"""The benchmark of the published layout with every part tiny: the public command makes a video."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_public_command_makes_a_video_from_what_was_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.full_size", "--small", "--device", "cpu"]
        + ["--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "24 frames of (1280, 704)" in done.stdout
    assert not list(tmp_path.iterdir())
