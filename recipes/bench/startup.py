"""How long it takes to import the core and to show the command's help, beside another environment.

The other one has, say, another commit of the package. Both are started in turn, so that whatever
else the machine does falls on both.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longlive_recipes.bench.options import Rows, StartupOptions

NAMES = ("async_decode", "attention", "float8", "kv_cache", "noise", "nvfp4", "sequence_parallel")
IMPORT = f"import {', '.join(f'longlive_core.{name}' for name in NAMES)}"
HELP = "import sys; sys.argv = ['longlive', '--help']; from longlive_cli.main import app; app()"
COMMIT = "from longlive_recipes.run_record import code_version; print(code_version())"
PARTS = {
    "import longlive_core": "import longlive_core",
    "import its primitives": IMPORT,
    "longlive --help": HELP,
}


def without_paths(options: StartupOptions) -> StartupOptions:
    """The options as a record has them: where the other environment lies is nobody's concern."""
    return replace(options, against=Path("OTHER/bin/python"))


def measure(against: Path, repeats: int) -> dict[str, Any]:
    """Both interpreters in turn: ``parts`` and ``checked`` of a record.

    Raises ValueError where a process fails.
    """
    parts = compare([sys.executable, str(against)], repeats)
    return {"checked": "every process ended with status 0", "parts": parts}


def once(python: str, code: str) -> tuple[float, float, str]:
    """Seconds from start to end and of processor time, and what was printed.

    Raises ValueError where the process fails.
    """
    command = [python, "-P", "-c", code]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().splitlines() or ["it said nothing"]
    if process.returncode:
        raise ValueError(
            f"{python} ended with status {process.returncode} ({said[-1]}), and nothing is "
            f"measured: start-up takes an interpreter that can import longlive. It ran `{code}`."
        )
    return seconds, used.ru_utime + used.ru_stime, printed


def compare(pythons: Sequence[str], repeats: int) -> dict[str, Rows]:
    """Rows by part: one for each interpreter, named after its commit, in the order given.

    Of several with the same commit, all but the first have their place in the name.
    """
    commits = [once(python, COMMIT)[2].strip() for python in pythons]
    names = [
        f"{commit}, interpreter {place}" if commit in commits[: place - 1] else commit
        for place, commit in enumerate(commits, start=1)
    ]
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
