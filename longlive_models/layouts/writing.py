"""Writing tensors one after another, so that memory holds one of them.

A pickle is the exception: ``torch.save`` takes all of its tensors together. Those that are mapped
from their file as they are take no memory then; decoded and converted ones do.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from longlive_models.checkpoints.disk import told_by_the_system
from longlive_models.layouts.sources import DTYPES, Entry

SHARD_BYTES = 4_000_000_000
"""The most bytes of a file of a folder; a tensor that would make it larger starts the next one."""

Named = Sequence[tuple[str, Entry]]
Progress = Callable[[str], None]
"""Called with the name of each tensor that was written."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_safetensors(
    path: Path,
    tensors: Named,
    notes: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a safetensors file; each tensor is read when it is its turn.

    Args:
        path: the file.
        tensors: the tensors by name.
        notes: texts for the file's metadata.
        progress: called after each tensor.

    Raises:
        ValueError: a tensor has another shape or type than its entry says.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(notes or {})}}
    place = 0
    for name, entry in tensors:
        header[name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [place, place + entry.bytes],
        }
        place += entry.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with told_by_the_system(path), path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, entry in tensors:
            tensor = _as_announced(name, entry)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            if progress is not None:
                progress(name)


def write_folder(folder: Path, tensors: Named, stem: str, progress: Progress | None) -> None:
    """Write safetensors of bounded size into a folder, with an index if they are several."""
    shards: list[list[tuple[str, Entry]]] = [[]]
    size = 0
    for name, entry in tensors:
        if shards[-1] and size + entry.bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, entry))
        size += entry.bytes
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", shards[0], progress=progress)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard, progress=progress)
        places |= dict.fromkeys((name for name, _ in shard), file)
    total = sum(entry.bytes for _, entry in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_pickle(
    path: Path, tensors: Named, holder: Mapping[str, object] | None, progress: Progress | None
) -> None:
    """Write a file of ``torch.save``: a state dict, or one under "generator" beside ``holder``."""
    state: dict[str, Tensor] = {}
    for name, entry in tensors:
        state[name] = _as_announced(name, entry)
        if progress is not None:
            progress(name)
    with told_by_the_system(path):
        torch.save(state if holder is None else {"generator": state, **holder}, path)


def _as_announced(name: str, entry: Entry) -> Tensor:
    tensor = entry.read().detach().cpu().contiguous()
    if tuple(tensor.shape) != tuple(entry.shape) or tensor.dtype != entry.dtype:
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, and its file said "
            f"{entry.dtype} of shape {entry.shape}: it changed while it was read. Convert again."
        )
    return tensor
