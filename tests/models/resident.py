"""The most memory that a piece of code holds, as the kernel counts it."""

from collections.abc import Callable
from pathlib import Path

import pytest

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(work: Callable[[], object]) -> int:
    """Bytes that the process grew by, at most, while ``work`` ran; what it gives is kept."""
    if not _RESET.exists():
        pytest.skip("the kernel of this system does not count the peak again")
    _RESET.write_text("5")
    before = _kilobytes("VmRSS")
    kept = work()
    grown = 1024 * (_kilobytes("VmHWM") - before)
    del kept
    return grown


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
