"""Run benchmarks: correctness first, then time.

    python -m benchmarks.run generation --seconds 20
    python -m benchmarks.run vae_decode --repeats 10
    python -m benchmarks.run kv_decode --repeats 20

Writes ``results/NAME_DEVICE.json`` and a table, ``results/NAME_DEVICE.md``, both with the hardware,
the commit and the command. A benchmark whose check fails writes nothing.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options
from benchmarks.registry import BENCHMARKS, Benchmark, DeviceBenchmark, find
from longlive_models import LongLivePipeline
from longlive_models.placement import Placement
from longlive_models.precision import in_short
from longlive_recipes.run_record import as_plain, code_version, hardware

RESULTS = Path(__file__).parent / "results"


def run(benchmark: Benchmark | DeviceBenchmark, options: Options, command: str) -> dict[str, Any]:
    """Check, then measure; the record as it is stored.

    Raises:
        AssertionError: the check found wrong results.
    """
    if isinstance(benchmark, Benchmark):
        device, found = _run_pipeline(benchmark, options)
    else:
        device = Placement.choose(options.device).device
        checked = benchmark.check(device, options)
        found = {
            "rows": benchmark.measure(device, options),
            "checked": checked,
            "backends": benchmark.backends(device, options),
        }
    return {
        "benchmark": benchmark.name,
        "about": benchmark.about,
        **found,
        "command": command,
        "commit": code_version(),
        "options": as_plain(options),
        "hardware": {**hardware(device), "cpu": cpu(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _run_pipeline(benchmark: Benchmark, options: Options) -> tuple[torch.device, dict[str, Any]]:
    """Load the model, check, measure."""
    began = time.perf_counter()
    pipe = LongLivePipeline.from_pretrained(
        options.model,
        device=options.device,
        weights=options.weights,
        kv_cache=options.kv_cache,
        attention=options.attention,
        lane=options.lane,
    )
    loaded = time.perf_counter() - began
    checked = benchmark.check(pipe, options)
    return pipe.placement.device, {
        "rows": benchmark.measure(pipe, options),
        "load_seconds": loaded,
        "checked": checked,
        "settings": pipe.settings.override(
            steps=options.steps, guidance=options.guidance
        ).to_dict(),
        "placement": pipe.placement.to_dict(),
        "backends": list(in_short(pipe.receipts())),
        "model_sha256": pipe.fingerprint,
    }


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = record["rows"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *(name.replace("_", " ") for name in names)], ["---"] * (len(names) + 1)]
    for case, row in rows.items():
        lines.append([case, *(_number(row.get(name)) for name in names)])
    made = record["hardware"]
    where = made.get("gpu", f"{made['cpu']}, threads: {made['threads']}, cores: {made['cores']}")
    return "\n".join(
        [
            f"# {record['benchmark']}",
            "",
            record["about"],
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            f"- {where}; torch {record['versions']['torch']}{_placed(record)}",
            f"- checked: {record['checked']}",
            f"- commit {record['commit']}: `{record['command']}`",
            "",
        ]
    )


def write(record: dict[str, Any], folder: Path) -> Path:
    """Store record and table; returns the record's path."""
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(record["hardware"]["device"]).type
    path = folder / f"{record['benchmark']}_{device}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(record))
    return path


def main(arguments: Sequence[str]) -> None:
    """The command line: one option for each field of ``Options``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    types = {"seconds": float, "guidance": float, "steps": int, "repeats": int}
    types |= dict.fromkeys(("page_tokens", "heads", "head_dim", "pages"), int)
    for field in fields(Options):
        name = field.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=types.get(field.name, str), default=field.default)
    given = vars(parser.parse_args(arguments))
    folder, names = given.pop("results"), given.pop("names")
    command = f"python -m benchmarks.run {shlex.join(arguments)}"
    try:
        options, wanted = Options(**given), [find(name) for name in names]
    except ValueError as error:
        parser.error(str(error))
    for benchmark in wanted:
        record = run(benchmark, options, command)
        path = write(record, folder)
        sys.stdout.write(f"{table(record)}\nwritten to {path}\n")


def _placed(record: dict[str, Any]) -> str:
    """What a pipeline was told, where there was one."""
    if "placement" not in record:
        return ""
    placed, settings = record["placement"], record["settings"]
    return (
        f"; weights {placed['weights']}, computed in {placed['compute']}; cache "
        f"{placed['kv_cache']}; lane {placed['lane']}; {settings['steps']} steps, guidance "
        f"{settings['guidance']:g}; loading took {record['load_seconds']:.2f} s"
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return (
        str(value) if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
