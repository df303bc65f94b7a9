"""What a benchmark leaves: its numbers with hardware, commit and command, and a table of them."""

import dataclasses
import json
import os
import platform
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from longlive_recipes.bench.catalog import UNFINISHED, record_files
from longlive_recipes.bench.options import Options, Table
from longlive_recipes.run_record import as_plain, code_version, hardware, replace_file

Keep = Callable[[dict[str, Any]], None]
"""Takes the record of what is done so far of a benchmark that goes on."""


def not_kept(record: dict[str, Any]) -> None:
    """Take the record of what is done so far, and do nothing with it."""


def stamped(
    found: dict[str, Any], options: Any, device: torch.device, command: str
) -> dict[str, Any]:
    """A record as it is stored: what was found, and everything needed to find it again.

    ``found`` has ``benchmark`` (its name), ``about``, ``checked``, and ``rows``, or ``parts``: rows
    by the heading that they have in the table. Where a part of it is still to come, ``unfinished``
    says in words how much is there.
    """
    return {
        **found,
        "command": command,
        "commit": code_version(),
        "options": as_plain(options),
        "hardware": {**hardware(device), "cpu": cpu(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def command_line(name: str, options: Options) -> str:
    """What is typed to run benchmark ``name`` with these options: the fields that were changed."""
    usual = type(options)()
    words = ["longlive", "bench", name]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != getattr(usual, field.name):
            parts = value if isinstance(value, tuple) else (value,)
            words += ["--set", f"{field.name}={','.join(map(str, parts))}"]
    return shlex.join(words)


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    parts = record.get("parts", {"": record.get("rows")})
    lines = [
        line
        for heading, rows in parts.items()
        for line in (*((f"## {heading}", "") if heading else ()), *_grid(rows), "")
    ]
    made = record["hardware"]
    where = made.get("gpu", f"{made['cpu']}, threads: {made['threads']}, cores: {made['cores']}")
    return "\n".join(
        [
            f"# {record['benchmark']}",
            "",
            record["about"],
            "",
            *lines,
            f"- {where}; torch {record['versions']['torch']}{_placed(record)}",
            f"- checked: {record['checked']}",
            *unfinished_line(record),
            f"- commit {record['commit']}: `{record['command']}`",
            "",
        ]
    )


def unfinished_line(record: Mapping[str, Any]) -> list[str]:
    """The line of a table that says that some of it is missing; none where nothing is."""
    return [f"- not finished: {record['unfinished']}"] if "unfinished" in record else []


def write(
    record: dict[str, Any], text: str, folder: Path, stem: str, picture: str | None = None
) -> tuple[Path, ...]:
    """Store a record, and its table ``text`` and its picture beside it; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = record_files(folder, stem, plots=picture is not None)
    contents = [json.dumps(record, indent=2) + "\n", text]
    contents += [] if picture is None else [picture]
    for path, content in zip(paths, contents, strict=True):
        replace_file(path, content)
    return paths


class Unfinished:
    """Files of what is done so far of a benchmark, which are there until it has ended.

    Args:
        folder: where they are; None: there are none.
        stem: of the benchmark's own files.
        table, picture: as ``run.Prepared`` has them.
    """

    def __init__(
        self,
        folder: Path | None,
        stem: str,
        table: Callable[[dict[str, Any]], str],
        picture: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        self.folder, self.stem = folder, stem + UNFINISHED
        self.table, self.picture = table, picture
        self.paths: tuple[Path, ...] = ()

    def keep(self, record: dict[str, Any]) -> None:
        """Replace the files by those of a record."""
        if self.folder is not None:
            picture = None if self.picture is None else self.picture(record)
            self.paths = write(record, self.table(record), self.folder, self.stem, picture)

    def remove(self) -> None:
        """Remove the files: the benchmark's own are there."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.paths = ()


def _grid(rows: Table) -> list[str]:
    """A table's lines: a row for each case, a column for each name."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *(name.replace("_", " ") for name in names)], ["---"] * (len(names) + 1)]
    for case, row in rows.items():
        lines.append([case, *(_number(row.get(name)) for name in names)])
    return [f"| {' | '.join(line)} |" for line in lines]


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


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return (
        str(value) if isinstance(value, int) else f"{value:.3g}" if value < 100 else f"{value:.0f}"
    )
