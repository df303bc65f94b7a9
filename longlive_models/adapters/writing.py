"""Writing adapters in the layouts of PEFT and kohya, and converting files between layouts."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_models.adapters.adapter import Adapter, Matrices
from longlive_models.adapters.reading import read_adapter
from longlive_models.checkpoints.disk import save_tensors
from longlive_models.lora import PREFIX, WEIGHTS
from longlive_models.lora_config import CONFIG, LoRAConfig

WRITTEN = ("peft", "kohya")
"""The layouts that are written: a folder of PEFT's, or a single file of kohya's."""


def write_adapter(
    adapter: Adapter, path: Path, *, layout: str = "peft", dtype: torch.dtype | None = None
) -> Path:
    """Write an adapter.

    Args:
        adapter: of any layout.
        path: a folder for "peft", a ``.safetensors`` file for "kohya".
        layout: one of ``WRITTEN``.
        dtype: the type of its numbers; float32 unless given.

    Returns:
        ``path``.

    Raises:
        ValueError: the layout cannot hold this adapter.
    """
    if layout not in WRITTEN:
        raise ValueError(
            f"layout={layout!r} is not written: adapters are written as {' or '.join(WRITTEN)}, "
            f"which other programs read. Use one of them."
        )
    if adapter.differences:
        raise ValueError(
            f"it has {len(adapter.differences)} differences of whole parameters, as "
            f"{next(iter(adapter.differences))}, which {layout}'s layout cannot hold: they would "
            f"be lost. Use the file as it is."
        )
    dtype = torch.float32 if dtype is None else dtype
    if layout == "peft":
        return _write_peft(adapter, path, dtype)
    tensors: dict[str, Tensor] = {}
    for name, one in adapter.matrices.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = one.down.to("cpu", dtype).contiguous()
        tensors[f"{key}.lora_up.weight"] = one.up.to("cpu", dtype).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(one.alpha, dtype=torch.float32, device="cpu")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path, metadata={"format": "pt"})
    return path


def convert_adapter(source: Path, target: Path, model: nn.Module, *, layout: str) -> Path:
    """Read an adapter of any layout for ``model``, perhaps on "meta", and write it in another.

    Raises:
        ValueError: what ``read_adapter`` and ``write_adapter`` refuse.
    """
    return write_adapter(read_adapter(source, model), target, layout=layout)


def _write_peft(adapter: Adapter, folder: Path, dtype: torch.dtype) -> Path:
    """Write PEFT's folder. Its config has one rank: smaller ones are filled up with zeros."""
    scales = sorted({one.scale for one in adapter.matrices.values()})
    if len(scales) != 1:
        raise ValueError(
            f"its matrices are scaled by {len(scales)} factors, from {scales[0]:g} to "
            f"{scales[-1]:g}, and PEFT's config has one: write it in kohya's layout, which has an "
            f"alpha for each."
        )
    rank = adapter.ranks[-1]
    config = LoRAConfig(rank=rank, alpha=scales[0] * rank, targets=tuple(adapter.matrices))
    tensors: dict[str, Tensor] = {}
    for name, one in adapter.matrices.items():
        down, up = _filled_up(one, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down.to("cpu", dtype).contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up.to("cpu", dtype).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config.to_peft(), indent=2) + "\n")
    return folder


def _filled_up(one: Matrices, rank: int) -> tuple[Tensor, Tensor]:
    more = rank - one.rank
    down = torch.cat([one.down, one.down.new_zeros(more, one.down.shape[1])])
    return down, torch.cat([one.up, one.up.new_zeros(one.up.shape[0], more)], 1)
