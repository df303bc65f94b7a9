"""Sharded checkpoints, read without running code that their files may hold.

torch's distributed checkpoint writes pickles: ``.metadata`` says what is where, and each value that
is no tensor is one of its own. It reads both without a bound on what they may name. Here the first
may name the classes that such metadata is made of, the others what ``weights_only`` allows.
"""

import io
import math
import os
import pathlib
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

from longlive_core.checks import shown
from longlive_models.checkpoints.tensor_files import read_pickle
from longlive_recipes.training.checkpoint_layout import averages_in, optimizers_in, with_averages
from longlive_recipes.training.optimizer_states import numbered_state
from longlive_recipes.training.optimizers import ONLY
from longlive_recipes.training.run_folder import META as META

METADATA = ".metadata"
"""The file in which torch says which tensors a sharded checkpoint has, and where they are."""

"""The file of a sharded checkpoint with what is no tensor of the module."""

_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
"""What an unpickler raises on bytes that are no pickle of its kind."""

_CLASSES = (
    metadata.Metadata,
    metadata.MetadataIndex,
    metadata.StorageMeta,
    metadata.TensorStorageMetadata,
    metadata.BytesStorageMetadata,
    metadata.ChunkStorageMetadata,
    metadata.TensorProperties,
    metadata._MEM_FORMAT_ENCODING,
    filesystem._StorageInfo,
)
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(each.__module__, each.__qualname__): each for each in _CLASSES},
    **{
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
    },
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    # where it was written: a name, which opens no file
    ("pathlib", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib", "WindowsPath"): pathlib.PureWindowsPath,
    ("pathlib._local", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib._local", "WindowsPath"): pathlib.PureWindowsPath,
}


def read_metadata(folder: Path) -> metadata.Metadata:
    """What a sharded checkpoint holds, and where; reads no tensor.

    Raises:
        ValueError: its metadata names anything that would run, is broken, or does not fit the
            files beside it.
    """
    file = folder / METADATA
    try:
        found = _Unpickler(io.BytesIO(file.read_bytes())).load()
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is no whole sharded checkpoint: it lacks {METADATA}. Name another one."
        ) from error
    except _BROKEN as error:
        raise ValueError(
            f"{file} is no metadata of a sharded checkpoint that can be read without running code "
            f"({_first_line(error)}): nothing of it was run. Name a checkpoint that "
            f"`longlive train` wrote."
        ) from error
    if reason := _why_not(found, folder):
        raise ValueError(
            f"{file} is no metadata of the checkpoint that it lies in: {reason}. Name a checkpoint "
            f"that `longlive train` wrote."
        )
    assert isinstance(found, metadata.Metadata)
    return found


def load_shards(state: dict[str, Any], folder: Path) -> None:
    """Load into ``state``, in place, what has its names; all ranks must call it.

    Raises ValueError as ``read_metadata`` does, and for values that would run code.
    """
    _load(state, folder, read_metadata(folder), alone=False)


def read_shards(folder: Path) -> dict[str, Any]:
    """All that a sharded checkpoint holds, on this process's CPU. Raises as ``load_shards``."""
    held = read_metadata(folder)
    flat: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device="cpu")
        if isinstance(entry, metadata.TensorStorageMetadata)
        else None
        for name, entry in held.state_dict_metadata.items()
    }
    _load(flat, folder, held, alone=True, nested=False)
    whole: dict[str, Any] = {}
    for name, path in held.planner_data.items():
        set_element(whole, path, flat[name])
    return whole


def read_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors, at least.

    Raises ValueError for a file that is not whole, is no pickle, or would run code.
    """
    file = path / META if path.is_dir() else path
    held: dict[str, Any] = read_pickle(file)
    return held


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as one rank writes it, whoever wrote it; in memory, on the CPU."""
    if path.is_file():
        return read_pickle(path)
    tensors, rest = read_shards(path), read_meta(path)
    averages = {
        name: tensors["average"] if name == ONLY else tensors["averages"][name]
        for name in averages_in(rest)
    }
    optimizers = [
        numbered_state(tensors[f"optimizer_{number}"]) for number in range(len(optimizers_in(rest)))
    ]
    return {
        **with_averages(rest, averages),
        "state_dict": tensors["state_dict"],
        "optimizer_states": optimizers,
    }


def _load(
    state: dict[str, Any],
    folder: Path,
    held: metadata.Metadata,
    *,
    alone: bool,
    nested: bool = True,
) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            reader = _Reader(folder, held)
            planner = _Planner(flatten_state_dict=nested, flatten_sharded_tensors=nested)
            dcp.load(state, storage_reader=reader, planner=planner, no_dist=alone)
    except CheckpointException as failed:
        rank, (error, _) = min(failed.failures.items())
        raise ValueError(
            f"{folder} cannot be loaded ({_first_line(error)}, on rank {rank}): its files are "
            f"broken, or of another model. Name a checkpoint of this run."
        ) from error


class _Unpickler(pickle.Unpickler):
    """Knows the classes of metadata, and nothing that does anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of any")
        return _ALLOWED[module, name]


class _Reader(dcp.FileSystemReader):
    """Reads by metadata that were read before."""

    def __init__(self, folder: Path, held: metadata.Metadata) -> None:
        super().__init__(folder)
        self._held = held

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self._held


class _Planner(DefaultLoadPlanner):
    """Reads values that are no tensors without running code."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        plain = torch.load(value, map_location="cpu", weights_only=True)
        name = read_item.dest_index.fqn
        if self.flatten_state_dict:
            set_element(self.original_state_dict, self.mappings[name], plain)
        else:
            self.state_dict[name] = plain


def _why_not(held: Any, folder: Path) -> str | None:
    """Why metadata cannot be those of the files in ``folder``; None if they can.

    Everything that is allocated for them is bounded by what the files hold.
    """
    if not isinstance(held, metadata.Metadata):
        return f"it holds a {type(held).__name__}"
    entries, places, paths = held.state_dict_metadata, held.storage_data, held.planner_data
    if not all(isinstance(part, dict) for part in (entries, places, paths)):
        return "a part of it is no dictionary"
    leads = entries.keys() == paths.keys()
    if not leads or not all(_is_path(path, len(entries)) for path in paths.values()):
        return "its names lead nowhere"
    for key, place in places.items():
        typed = isinstance(key, metadata.MetadataIndex), isinstance(place, filesystem._StorageInfo)
        if not all(typed):
            return f"{shown(place)} is no place of a value"
    names = {place.relative_path for place in places.values()}
    for name in sorted(names, key=str):
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            return f"it names {shown(name)}, which is no file there"
    room = sum((folder / name).stat().st_size for name in names)
    needed = 0
    for name, entry in entries.items():
        if isinstance(entry, metadata.TensorStorageMetadata):
            size, dtype = entry.size, entry.properties.dtype
            if not isinstance(size, torch.Size) or not isinstance(dtype, torch.dtype):
                return f"{name} has no size and type"
            needed += math.prod(size) * dtype.itemsize
        elif not isinstance(entry, metadata.BytesStorageMetadata):
            return f"{shown(name)} is neither tensor nor value"
    if needed > room:
        return f"its tensors take {needed:,} bytes, its files have {room:,}"
    return None


def _is_path(path: Any, most: int) -> bool:
    """Whether it leads from a dictionary to a value: names, and places in lists that are filled."""
    return (
        isinstance(path, tuple)
        and len(path) > 0
        and isinstance(path[0], str)
        and all(isinstance(part, str) or (type(part) is int and 0 <= part < most) for part in path)
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def free_slot(path: Path) -> Path:
    """Of the two folders that checkpoints are written to in turn, the one not in use."""
    slots = [path.with_name(f"{path.name}.{letter}") for letter in "ab"]
    return slots[1] if path.is_symlink() and path.readlink().name == slots[0].name else slots[0]


def point(path: Path, slot: Path) -> None:
    """Let ``path`` mean ``slot``, in one move; what it meant before is removed."""
    before = path.resolve() if path.is_symlink() else None
    link = path.with_name(f"{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(slot.name)
    os.replace(link, path)
    if before is not None and before != slot.resolve():
        shutil.rmtree(before)
