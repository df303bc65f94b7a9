"""Run benchmarks: correctness first, then time.

    python -m benchmarks.run generation --seconds 20
    python -m benchmarks.run vae_decode --repeats 10
    python -m benchmarks.run kv_decode --repeats 20

Writes ``results/NAME_DEVICE.json`` and a table, ``results/NAME_DEVICE.md``, both with the hardware,
the commit and the command. A benchmark whose check fails writes nothing.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options
from benchmarks.ranks import reset_peak_memory
from benchmarks.record import RESULTS, stamped, table, write
from benchmarks.registry import BENCHMARKS, Benchmark, DeviceBenchmark, find
from longlive_models import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.runtime import Runtime


def run(benchmark: Benchmark | DeviceBenchmark, options: Options, command: str) -> dict[str, Any]:
    """Check, then measure; the record as it is stored.

    Raises:
        AssertionError: the check found wrong results.
    """
    if isinstance(benchmark, Benchmark):
        device, found = _run_pipeline(benchmark, options)
    else:
        device = Runtime.choose(options).device
        checked = benchmark.check(device, options)
        found = {
            "rows": benchmark.measure(device, options),
            "checked": checked,
            "backends": benchmark.backends(device, options),
        }
    about = {"benchmark": benchmark.name, "about": benchmark.about}
    return stamped({**about, **found}, options, device, command)


def _run_pipeline(benchmark: Benchmark, options: Options) -> tuple[torch.device, dict[str, Any]]:
    """Load the model, check, measure."""
    began = time.perf_counter()
    pipe = LongLivePipeline.load(options.model, Runtime.choose(options))
    loaded = time.perf_counter() - began
    for device in {pipe.runtime.device, pipe.runtime.decode_device}:
        reset_peak_memory(device)  # another benchmark may have run before
    checked = benchmark.check(pipe, options)
    return pipe.runtime.device, {
        "rows": benchmark.measure(pipe, options),
        "load_seconds": loaded,
        "checked": checked,
        "settings": pipe.settings.override(
            steps=options.steps, guidance=options.guidance
        ).to_dict(),
        "placement": pipe.runtime.to_dict(),
        "backends": list(in_short(pipe.receipts())),
        "model_sha256": pipe.fingerprint,
    }


def main(arguments: Sequence[str]) -> None:
    """The command line: one option for each field of ``Options``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    types = {"seconds": float, "guidance": float, "steps": int, "repeats": int}
    types |= dict.fromkeys(("page_tokens", "heads", "head_dim", "pages"), int)
    for field in fields(Options):
        name = field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
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


if __name__ == "__main__":
    main(sys.argv[1:])
