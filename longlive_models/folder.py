"""A part of a model folder on disk: ``config.json`` and safetensors, split below a file size."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

SHARD = "15MB"
"""No weight file is larger: the shipped model's files stay under 16 MiB."""


def save_part(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a config and its weights, floating-point ones as ``dtype`` if it is given."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    kept = {
        name: tensor.detach()
        .to("cpu", dtype if tensor.is_floating_point() else None)
        .contiguous()
        .clone()
        for name, tensor in tensors.items()
    }
    save_torch_state_dict(kept, folder, max_shard_size=SHARD)


def load_part(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights that :func:`save_part` wrote.

    Raises:
        ValueError: the folder lacks its config or its weights.
    """
    config, files = read_config(folder), sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} is no part of a model: it holds no *.safetensors. "
            f"Name a model folder as `longlive train` writes it."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return config, tensors


def read_config(folder: Path) -> dict[str, Any]:
    """The config alone; reads no weights."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no part of a model: it holds no config.json. "
            f"Name a model folder as `longlive train` writes it."
        )
    return json.loads(file.read_text())


def fingerprint(folder: Path) -> str:
    """SHA-256 over the weight files below ``folder``, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
