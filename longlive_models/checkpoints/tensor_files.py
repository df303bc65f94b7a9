"""Readers of tensor files: safetensors, and pickles of ``torch.save``.

All weights are read here. Pickles are read with ``weights_only``, which runs no code. A file that
is incomplete or of another kind is a ValueError that says what the file is instead.
"""

import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from longlive_core.checks import shown
from longlive_models.checkpoints.hub import UNFINISHED
from longlive_models.finite import LARGEST_WEIGHT, sound

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth")
_HEADER = 100 << 20
"""The longest header that safetensors allows, in bytes."""

_BROKEN = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    OSError,
    zipfile.BadZipFile,
)
"""The errors of torch.load for a file that it cannot read."""


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file; they are on the CPU, mapped, not copied.

    Raises:
        ValueError: the file is incomplete or of another kind, or weights are NaN or infinite.
    """
    path = Path(path)
    require_safetensors(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, *_BROKEN) as error:
        raise ValueError(_unreadable(path, "safetensors", error)) from error
    require_numbers(tensors, path)
    return tensors


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a safetensors file's tensors from its header.

    Raises ValueError if the file is incomplete or of another kind.
    """
    path = Path(path)
    require_safetensors(path)
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, *_BROKEN) as error:
        raise ValueError(_unreadable(path, "safetensors", error)) from error


def read_pickle(path: str | Path) -> Any:
    """Read a file of ``torch.save`` that holds tensors and plain values; on the CPU, mapped.

    Raises:
        ValueError: the file is incomplete, of another kind, or would run code.
    """
    path = Path(path)
    kind = _require_file(path)
    if kind == "safetensors":
        raise ValueError(_misnamed(path, "a safetensors file", f"{path.stem}{SAFETENSORS}"))
    if kind not in ("zip", "pickle"):
        raise ValueError(_no_weights(path, "what torch.save writes", kind))
    if kind == "zip":
        _require_archive(path)
    try:
        with warnings.catch_warnings():
            # it says that not every pickle of another protocol can be read: those are refused
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"cannot read {path} without running code that it may hold: it is a pickle "
            f"{f'that names {named[1]}' if named else 'of other things than tensors'}. Nothing of "
            f"it was run. Save its state dict of tensors alone, with torch.save or as safetensors."
        ) from error
    except _BROKEN as error:
        raise ValueError(_unreadable(path, "what torch.save writes", error)) from error


def read_tensors(path: str | Path, holders: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read the tensors of one file by name; the file's suffix says which kind it is.

    Args:
        path: the file.
        holders: keys of a pickle under which the tensors may be, also one below another; the
            first that exists is used.

    Raises:
        ValueError: the file is incomplete or of another kind, has other values than tensors, or
            weights are NaN or infinite.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        return read_safetensors(path)
    if path.suffix not in PICKLES:
        raise ValueError(
            f"cannot read weights from {str(path)!r}: it ends in neither {SAFETENSORS}, "
            f"{PICKLES[0]} nor {PICKLES[1]}. Name a file of weights, or a folder of safetensors."
        )
    return state_dict_in(read_pickle(path), path, holders)


def state_dict_in(
    content: Any, path: Path, holders: Sequence[str] = (), *, check: bool = True
) -> dict[str, Tensor]:
    """The tensors by name in a pickle's content, at its top level or under one of ``holders``.

    Raises ValueError for other content, and for weights that are NaN or infinite, which are
    searched for if ``check`` says so: every value is read for it.
    """
    while holder := _holder_in(content, holders):
        content = content[holder]
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    else:
        plain = {k for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        odd = next(iter(content.keys() - plain), None)
        found = "" if odd is None else f"{type(content[odd]).__name__} under {shown(odd)}"
    if found:
        under = f" or under {', '.join(holders)}" if holders else ""
        raise ValueError(
            f"{str(path)!r} holds no state dict: expected tensors by name, at the top{under}, got "
            f"{found}. Save the model's state_dict() alone."
        )
    tensors = dict(content)
    if check:
        require_numbers(tensors, path)
    return tensors


def _holder_in(content: Any, holders: Sequence[str]) -> str | None:
    """The first of ``holders`` under which a mapping has another one."""
    if not isinstance(content, Mapping):
        return None
    return next((one for one in holders if isinstance(content.get(one), Mapping)), None)


def check_together(
    held: Mapping[Path, Mapping[str, Any]], index: Mapping[str, str] | None = None
) -> None:
    """Raise ValueError if files hold the same tensor, or not the ones that the index says."""
    places: dict[str, Path] = {}
    for file, names in held.items():
        for name in names:
            if name in places:
                raise ValueError(
                    f"{name} is in both {places[name].name} and {file.name} of {file.parent}: the "
                    f"folder holds two models, or two saves of one. Leave the files of one there."
                )
            places[name] = file
    for name, place in (index or {}).items():
        if name not in places or places[name].name != place:
            where = f"it is in {places[name].name}" if name in places else "no file holds it"
            folder = next(iter(held)).parent
            raise ValueError(
                f"the index in {folder} says that {shown(name)} is in {shown(place)}, but {where}: "
                f"index and files are of different saves. Fetch or save all of them again."
            )


def require_safetensors(path: Path) -> None:
    """Raise ValueError unless this is a complete safetensors file; reads its header only."""
    kind = _require_file(path)
    if kind in ("zip", "pickle"):
        raise ValueError(_misnamed(path, "a pickle, as torch.save writes it", f"{path.stem}.pt"))
    if kind != "safetensors":
        raise ValueError(_no_weights(path, "safetensors", kind))
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = file.read(length)
    size = path.stat().st_size
    try:
        entries = json.loads(header, object_pairs_hook=_once)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        if 8 + length > size:
            raise ValueError(_cut_short(path, size, 8 + length)) from error
        raise ValueError(_unreadable(path, "safetensors", error)) from error
    if size < whole:
        raise ValueError(_cut_short(path, size, whole))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of pairs. Raises ValueError if a name stands twice: one would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header has {shown(twice)} twice")
    return values


def require_numbers(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise ValueError for a tensor with NaN, infinities or values that overflow when squared.

    Reads all values once: about 0.1 s for each gigabyte in memory.
    """
    for name, x in tensors.items():
        if x.layout is not torch.strided or x.nbytes > x.untyped_storage().nbytes():
            raise ValueError(
                f"{name} in {source} is no plain tensor: it is {x.layout}, or its shape "
                f"{list(x.shape)} has more values than are stored. Save dense tensors."
            )
        if not x.is_floating_point() or not x.numel():
            continue
        for piece in [x] if x.dtype.itemsize > 1 else x.reshape(-1).split(1 << 22):
            wide = piece if x.dtype.itemsize > 1 else piece.float()
            if not sound(wide, LARGEST_WEIGHT):
                low, high = (bound.item() for bound in torch.aminmax(wide))
                value = low if low < -LARGEST_WEIGHT else high
                raise ValueError(
                    f"the weight {name} in {source} holds {value:g}: a video of such a number is "
                    f"black. The training that wrote it diverged, or the file is broken: take "
                    f"another checkpoint, or fetch it again."
                )


def unfinished(path: Path) -> Path | None:
    """The file of an unfinished download of ``path`` beside it, if there is one."""
    return next((p for end in UNFINISHED if (p := path.with_name(path.name + end)).is_file()), None)


def cached_in_part(path: Path) -> str | None:
    """The hub id of the model whose cached snapshot has the folder of ``path``; None elsewhere."""
    for parent in path.parents:
        if parent.name.startswith("models--") and parent / "snapshots" in path.parents:
            return parent.name.removeprefix("models--").replace("--", "/")
    return None


def why_missing(path: Path) -> str:
    """The end of a message about a missing file: what is known of it, and the way out."""
    if part := unfinished(path):
        return f"only {part.name} is there: its download was not finished. Fetch it again."
    if model := cached_in_part(path):
        return (
            f"the hub's model {model} was cached in part. With a connection, fetch the rest with "
            f"`hf download {model}`."
        )
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)}, which is not there. Fetch it again."
    return "check the path, or fetch it again."


def _require_file(path: Path) -> str:
    """The kind of a file, told by its first bytes. Raises ValueError if it cannot be read."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file of weights in it.")
    if not path.exists():
        raise ValueError(f"there is no file {str(path)!r}: {why_missing(path)}")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its rights.") from error
    return _kind(start)


_TOLD = {
    "empty": ("it is empty", "it was written or fetched in part. Fetch it again"),
    "zeros": ("it holds zeros", "its download was not finished. Fetch it again"),
    "lfs": ("it is a Git LFS pointer", "its content was not fetched. Run `git lfs pull`"),
    "page": (
        "it is a web page",
        "a download got it in place of the file, for want of a login perhaps. Use `hf download`",
    ),
    "gguf": ("it is in GGUF", "that format is not read here. Take the model's safetensors"),
    "hdf5": ("it is in HDF5", "that format is not read here. Take the model's safetensors"),
    "numpy": ("it is an array of NumPy", "weights are tensors by name. Save them as safetensors"),
    "packed": ("it is a compressed archive", "weights lie in it. Unpack it"),
    "text": ("it is text", "weights are binary. Name their file"),
    "other": ("its format is not known", "it may be broken or something else. Fetch it again"),
}


def _kind(start: bytes) -> str:
    """One of "safetensors", "zip", "pickle" and the keys of ``_TOLD``."""
    text = start.lstrip().lower()
    magics = (
        (b"version https://git-lfs", "lfs"),
        (b"PK\x03\x04", "zip"),
        (b"GGUF", "gguf"),
        (b"\x89HDF", "hdf5"),
        (b"\x93NUMPY", "numpy"),
        (b"\x1f\x8b", "packed"),
        (b"7z\xbc\xaf", "packed"),
        (b"\x28\xb5\x2f\xfd", "packed"),
    )
    found = next((kind for magic, kind in magics if start.startswith(magic)), None)
    if found or not start:
        return found or "empty"
    if len(start) > 8 and start[8:9] == b"{" and 2 <= struct.unpack("<Q", start[:8])[0] <= _HEADER:
        return "safetensors"
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "page"
    if not any(start):
        return "zeros"
    return "text" if _is_text(start) else "other"


def _is_text(start: bytes) -> bool:
    try:
        words = start.decode()
    except UnicodeDecodeError as error:
        words = start[: error.start].decode() if error.start > len(start) - 4 else ""
    return bool(words) and all(c.isprintable() or c.isspace() for c in words)


def _require_archive(path: Path) -> None:
    """Raise ValueError unless a zip file is complete and written by torch.save."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not whole: its end, where a file of torch.save lists what it holds, is not "
            f"there ({path.stat().st_size:,} bytes are). It was fetched or copied in part. Fetch "
            f"it again."
        ) from error
    if not any(name.endswith("data.pkl") for name in names):
        raise ValueError(
            f"{path} holds no weights: it is a zip archive that torch.save did not write (it holds "
            f"{shown(names[0]) if names else 'nothing'}). Unpack it, and name the file in it."
        )


def _no_weights(path: Path, wanted: str, kind: str) -> str:
    what, way_out = _TOLD[kind]
    return f"{path} cannot be read as {wanted}: {what}; {way_out}."


def _misnamed(path: Path, what: str, name: str) -> str:
    return f"{path} is {what}, and its name says otherwise: rename it to {name}."


def _cut_short(path: Path, size: int, whole: int) -> str:
    return (
        f"{path} is not whole: it has {size:,} bytes of {whole:,}. It was fetched or copied in "
        f"part. Fetch it again."
    )


def _unreadable(path: Path, what: str, error: BaseException) -> str:
    reason = str(error).strip().split("\n", 1)[0].rstrip(".")[:200]
    return (
        f"{path} cannot be read as {what} ({type(error).__name__}: {reason}): it may be broken, or "
        f"copied in part. Fetch it again."
    )
