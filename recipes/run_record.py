"""The record of a run: its config, the code's version and the machine; kept beside checkpoints."""

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from longlive_core import __version__
from longlive_models.documents import read_json, to_json
from longlive_models.file_names import part
from longlive_recipes.training.run_folder import RECORD as RECORD

NOT_IN_RECORDS = {"in_records": False}
"""The metadata of a dataclass's field that makes ``as_plain`` leave it out."""

OLD_NAMES = {"optimisation": "optimization", "quantised": "quantized"}
"""Names of config fields in records before 0.2.0, and their names since."""


def as_plain(value: Any) -> Any:
    """A config as JSON can hold it: dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.metadata != NOT_IN_RECORDS]
        return {field.name: as_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def code_version() -> str:
    """The commit of the source tree; of an installed package, its version."""
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    if not tracked:  # installed, perhaps inside a repository of somebody else's
        return f"longlive {__version__}"
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=12") or "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """The output of a git command; "" if it fails or git is missing."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the machine, as far as results depend on it."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def run_record(config: Any, device: torch.device) -> dict[str, Any]:
    """Make the record of a run: all that is needed to say how a result was made."""
    return {
        "recipe": type(config).__name__,
        "config": as_plain(config),
        **_circumstances(device),
    }


def _circumstances(device: torch.device) -> dict[str, Any]:
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": sys.argv,
        "hardware": hardware(device),
    }


def write_run_record(
    folder: Path,
    config: Any,
    device: torch.device,
    *,
    resumed: Mapping[str, Any] | None = None,
    backends: Sequence[str] = (),
) -> None:
    """Write ``run.json``; for a run that is resumed, add to its file.

    Args:
        resumed: from which checkpoint and step; None for a run that begins here.
        backends: what quantized layers compute with, and why with nothing faster.
    """
    record = run_record(config, device)
    if backends:
        record["backends"] = list(backends)
    if resumed is not None:
        earlier = read_run_record(folder)
        now = {**resumed, **_circumstances(device)}
        record = earlier or record
        record = {**record, "resumed": [*record.get("resumed", []), now]}
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RECORD, to_json(record, RECORD, indent=2) + "\n")


def read_run_record(folder: Path) -> dict[str, Any] | None:
    """Read what ``write_run_record`` wrote into ``folder``, or None; fields get today's names.

    Raises:
        ValueError: the file is no record of a run.
    """
    file = folder / RECORD
    if not file.exists():
        return None
    record = read_json(file, "the record of a run")
    kinds: dict[str, type] = {"recipe": str, "config": dict, "resumed": list}
    for name, kind in kinds.items():
        if not isinstance(record.get(name, kind()), kind) or name not in {**record, "resumed": []}:
            raise ValueError(
                f"{file} is no record of a run: it needs {name!r}, {_KINDS[kind]}. Move it away, "
                f"or name another folder."
            )
    config = {OLD_NAMES.get(name, name): value for name, value in record["config"].items()}
    return {**record, "config": config}


_KINDS: dict[type, str] = {str: "a text", dict: "an object {...}", list: "a list [...]"}


def differences(before: Any, now: Any, *, ignore: Collection[str] = ()) -> list[str]:
    """List the differences of two plain values, as ``budget.steps: 4 -> 6``.

    Args:
        ignore: dotted names that may differ.
    """
    return [
        f"{name}: {old} -> {new}"
        for name, old, new in _compared(before, now, "")
        if not any(name == other or name.startswith(f"{other}.") for other in ignore)
    ]


def _compared(before: Any, now: Any, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            inner = f"{name}.{key}" if name else key
            if key in before and key in now:
                yield from _compared(before[key], now[key], inner)
            else:
                yield inner, _shown(before, key), _shown(now, key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _compared(old, new, f"{name}.{place}")
    elif before != now:
        yield name, json.dumps(before), json.dumps(now)


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "nothing"


def replace_file(path: Path, text: str) -> None:
    """Replace a file in one step, so that at any moment it is either the old or the new one."""
    new = path.with_name(part(path.name))
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
