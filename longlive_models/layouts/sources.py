"""Tensors of a file or a folder that are read one at a time, when they are asked for.

Safetensors, pickles of ``torch.save`` and GGUF are understood. Names, shapes and types are known
before anything is read. What is read is mapped, not copied, except for GGUF's block formats, which
are decoded to float32.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from longlive_core.checks import shown
from longlive_models.checkpoints.folder import read_weight_shapes, weight_files
from longlive_models.checkpoints.tensor_files import (
    PICKLES,
    SAFETENSORS,
    read_pickle,
    require_safetensors,
    state_dict_in,
)
from longlive_models.documents import read_json
from longlive_models.layouts.depth import refuse_shard
from longlive_models.layouts.gguf_files import GGUF, read_gguf
from longlive_models.layouts.wrappers import HOLDERS

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U32": torch.uint32,
    "BOOL": torch.bool,
}
"""Types by the names that safetensors have for them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor that can be read: its shape and type, and what reads it, to the CPU.

    ``decoded`` says that reading makes it, in memory of its own, rather than mapping its file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor] = field(repr=False)
    decoded: bool = False

    @property
    def bytes(self) -> int:
        """The size of the tensor in memory."""
        count = self.dtype.itemsize
        for side in self.shape:
            count *= side
        return count

    def split(self, parts: int, index: int) -> "Entry":
        """One of ``parts`` equal groups of rows."""
        rows = self.shape[0] // parts
        return replace(
            self,
            shape=(rows, *self.shape[1:]),
            read=lambda: self.read()[index * rows : (index + 1) * rows],
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tensors of a file or a folder by name.

    Attributes:
        path: the file or folder.
        entries: the tensors by the names that the file has for them.
        notes: what the file says beside its tensors: safetensors' metadata, a pickle's other
            values, the config of a folder.
    """

    path: Path
    entries: Mapping[str, Entry]
    notes: Mapping[str, Any] = field(default_factory=dict)


def open_source(path: str | Path) -> Source:
    """Open a file, or a folder of safetensors; reads names, shapes and types.

    Raises:
        ValueError: it is missing, incomplete or of another kind, or a pickle that would run code.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    refuse_shard(path)
    if path.suffix == GGUF:
        described, texts = read_gguf(path)
        entries = {
            name: Entry(shape=shape, dtype=dtype, read=read, decoded=True)
            for name, (shape, dtype, read) in described.items()
        }
        return Source(path=path, entries=entries, notes=texts)
    if path.suffix in PICKLES:
        return _pickle(path)
    if path.suffix == SAFETENSORS:
        entries, notes = _safetensors(path)
        return Source(path=path, entries=entries, notes=notes)
    raise ValueError(
        f"cannot read weights from {str(path)!r}: it ends in neither {SAFETENSORS}, "
        f"{', '.join(PICKLES)} nor {GGUF}. Name a file of weights, or a folder of safetensors."
    )


def of_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, Any]) -> Source:
    """A source of tensors that are in memory."""
    return Source(path=path, entries={k: entry_of(v) for k, v in tensors.items()}, notes=notes)


def entry_of(tensor: Tensor) -> Entry:
    """The entry of a tensor that is in memory."""
    return Entry(shape=tuple(tensor.shape), dtype=tensor.dtype, read=lambda: tensor)


def _folder(path: Path) -> Source:
    read_weight_shapes(path)  # checks that the files belong together
    entries: dict[str, Entry] = {}
    notes: dict[str, Any] = {}
    for file in weight_files(path):
        more, said = _safetensors(file)
        entries |= more
        notes |= said
    config = path / "config.json"
    if config.is_file():
        notes["config"] = read_json(config, "a model's config")
    return Source(path=path, entries=entries, notes=notes)


def _safetensors(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    require_safetensors(path)
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    notes = header.pop("__metadata__", {})
    try:
        held = safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): fetch it again."
        ) from error
    entries = {}
    for name, what in header.items():
        if what["dtype"] not in DTYPES:
            raise ValueError(
                f"{path} holds {shown(name)} in the type {what['dtype']!r}, which is not read "
                f"here: {', '.join(DTYPES)} are. Take the model in another precision."
            )
        entries[name] = Entry(
            shape=tuple(what["shape"]), dtype=DTYPES[what["dtype"]], read=_getter(held, name)
        )
    return entries, notes


def _getter(held: Any, name: str) -> Callable[[], Tensor]:
    return lambda: held.get_tensor(name)


def _pickle(path: Path) -> Source:
    content = read_pickle(path)
    notes = {}
    if isinstance(content, Mapping):
        notes = {k: v for k, v in content.items() if not isinstance(v, Mapping | Tensor)}
        if isinstance(content.get("quantization"), Mapping):
            notes["quantization"] = content["quantization"]
    tensors = state_dict_in(content, path, HOLDERS, check=False)
    return of_tensors(tensors, path, notes)
