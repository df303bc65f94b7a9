"""Every command refuses what cannot be in one sentence, with a status, and writes nothing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_command_lines_that_cannot_be_are_refused_in_words():
    """In a process of its own, where annotations are not checked: `tests/bad_commands.py`."""
    command = [sys.executable, "-m", "tests.bad_commands"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines[:40], done.stderr[-1000:]])
    assert int(lines[-1].split()[0]) > 350
