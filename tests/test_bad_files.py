"""Every kind of file that is read, damaged in every way: read, or refused in a sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tried(*arguments: str) -> int:
    """How many files of `tests/bad_files.py`, in a process of its own, ended as they have to."""
    command = [sys.executable, "-m", "tests.bad_files", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines[:40], done.stderr[-1000:]])
    return int(lines[-1].split()[0])


def test_files_that_are_damaged_are_refused_in_words():
    assert tried() > 3000


@pytest.mark.slow
def test_no_field_of_a_file_takes_a_value_that_it_cannot_have():
    assert tried("--every") > 4000
