"""Every public door of the primitives and of the models' sizes refuses what it cannot use."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_bad_value_is_refused_in_words():
    """In a process of its own, where annotations are not checked: `tests/bad_values.py`."""
    command = [sys.executable, "-m", "tests.bad_values"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines[:40], done.stderr[-1000:]])
    assert int(lines[-1].split()[0]) > 1300
