"""How long it takes to import the core and to show the command's help, here and before.

    python -m benchmarks.startup --against OTHER/bin/python

OTHER is an environment with another commit of the package. Both are started in turn, so that
whatever else the machine does falls on both.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Rows
from benchmarks.record import RESULTS, stamped, write

NAMES = ("async_decode", "attention", "float8", "kv_cache", "noise", "nvfp4", "sequence_parallel")
IMPORT = f"import {', '.join(f'longlive_core.{name}' for name in NAMES)}"
HELP = "import sys; sys.argv = ['longlive', '--help']; from longlive_cli.main import app; app()"
COMMIT = "from longlive_recipes.run_record import code_version; print(code_version())"
PARTS = {
    "import longlive_core": "import longlive_core",
    "import its primitives": IMPORT,
    "longlive --help": HELP,
}
ABOUT = (
    "A new process of Python that imports the core, with its primitives (which import torch) or "
    "without, or shows the command's help. The two commits take turns. Seconds from "
    "start to end, and seconds of processor time, which depend less on what else the machine does."
)


def once(python: str, code: str) -> tuple[float, float, str]:
    """Seconds from start to end and of processor time, and what was printed.

    Raises RuntimeError where the process fails.
    """
    began = time.perf_counter()
    with subprocess.Popen([python, "-P", "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"`{code}` ended with status {process.returncode}: nothing is measured.")
    return seconds, used.ru_utime + used.ru_stime, printed


def measure(pythons: Sequence[str], repeats: int) -> dict[str, Rows]:
    """Rows by part: one for each interpreter, named after its commit, in the order given."""
    names = [once(python, COMMIT)[2].strip() for python in pythons]
    parts: dict[str, Rows] = {}
    for part, code in PARTS.items():
        taken: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
        for turn in range(repeats + 1):
            for name, python in zip(names, pythons, strict=True):
                found = once(python, code)
                if turn:  # the first one fills the system's caches
                    taken[name].append(found)
        parts[part] = {name: _row(some) for name, some in taken.items()}
    return parts


def _row(taken: list[tuple[float, float, str]]) -> dict[str, float]:
    walls, processor, _ = zip(*taken, strict=True)
    return {
        "median_seconds": statistics.median(walls),
        "fastest_seconds": min(walls),
        "median_processor_seconds": statistics.median(processor),
        "fastest_processor_seconds": min(processor),
    }


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, store the record and its table; returns the record's path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", required=True, help="the interpreter of another environment")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    parts = measure([sys.executable, options.against], options.repeats)
    found: dict[str, Any] = {
        "benchmark": "startup",
        "about": ABOUT,
        "checked": "every process ended with status 0",
        "parts": parts,
    }
    command = "python -m benchmarks.startup --against OTHER/bin/python"
    record = stamped(found, {"repeats": options.repeats}, torch.device("cpu"), command)
    return write(record, options.results)


if __name__ == "__main__":
    print(main())
