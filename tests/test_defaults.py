"""Torch's default dtype and device change nothing: the same bytes in a fresh process under each."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@cache
def sweep(kind: str, when: str, parts: Sequence[str]) -> dict[str, str]:
    """Hashes of what the library gives under a default, in a process of its own."""
    command = [sys.executable, "-m", "tests.defaults_sweep", kind, when, *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(kind: str, when: str, *parts: str) -> None:
    expected = sweep("none", "after", parts)
    assert [name for name, value in expected.items() if "Error" in value] == []
    assert sweep(kind, when, parts) == expected


@pytest.mark.parametrize("kind", ["bfloat16", "meta"])
def test_numbers_caches_and_schedules_do_not_know_the_default(kind):
    check(kind, "before", "core")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["bfloat16", "float64", "meta"])
def test_nothing_knows_the_default(kind, when):
    check(kind, when)
