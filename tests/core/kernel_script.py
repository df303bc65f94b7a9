"""Kernels in a process of their own: whether Triton interprets is settled when it is imported."""

import os
import subprocess
import sys

import pytest


def run_kernels(code: str, *, interpreted: bool) -> None:
    """Run a script that asserts; skipped where there is no Triton."""
    pytest.importorskip("triton", reason="triton is there on x86-64 Linux only")
    environment = {"TRITON_INTERPRET": "1"} if interpreted else {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
