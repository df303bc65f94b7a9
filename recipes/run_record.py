"""What a run was: its config, the code, the machine. Written beside its checkpoints."""

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def as_plain(value: Any) -> Any:
    """A config as JSON can hold it: dataclasses become dicts, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: as_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def code_version() -> str:
    """The commit of the source tree, or "unknown" for an installed package."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine a run used, as far as results depend on it."""
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
    """Everything needed to say how a result was made."""
    return {
        "recipe": type(config).__name__,
        "config": as_plain(config),
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": sys.argv,
        "hardware": hardware(device),
    }


def write_run_record(folder: Path, config: Any, device: torch.device) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run_record(config, device), indent=2)
    (folder / "run.json").write_text(text + "\n")
