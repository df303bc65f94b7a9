"""A part of a model folder on disk: ``config.json`` and safetensors, split below a file size."""

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
    config, files = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not files:
        raise ValueError(
            f"{folder} is no part of a model: it needs config.json and *.safetensors. "
            f"Name a model folder as `longlive train` writes it."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return json.loads(config.read_text()), tensors
