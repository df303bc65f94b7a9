"""Saving and loading a part of a model folder: ``config.json`` and safetensors of bounded size."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longlive_core.checks import shown
from longlive_core.names import few
from longlive_models.checkpoints.disk import permit, told_by_the_system
from longlive_models.checkpoints.tensor_files import (
    SAFETENSORS,
    cached_in_part,
    check_together,
    read_safetensors,
    read_shapes,
    unfinished,
    why_missing,
)
from longlive_models.documents import read_json

SHARD = "15MB"
"""The most bytes of a weight file; so the shipped model's files stay under 16 MiB."""


BESIDE = "vae_light"
"""A folder in a model's folder that is no part of the model's hash: it can do without."""

_LONGEST_SERIES = 10_000
"""The most files that a model may be split into."""


def save_part(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a config and weights; floating-point ones are converted to ``dtype`` if it is given."""
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
    with told_by_the_system(folder):
        save_torch_state_dict(kept, folder, max_shard_size=SHARD)
    permit(folder.glob("*.safetensors"), (folder / "config.json").stat().st_mode)


def load_part(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the config and the weights that :func:`save_part` wrote.

    Raises:
        ValueError: the config or a file of weights is missing; a file is incomplete or not of the
            kind that its name says; two files hold the same weight; a weight is NaN or infinite.
    """
    config = read_config(folder)
    return config, load_folder(folder)


def load_folder(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder's safetensors files. Raises ValueError as ``load_part`` does."""
    read_weight_shapes(folder)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= read_safetensors(file)
    return tensors


def read_weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a folder's weights from the headers of its files.

    Raises:
        ValueError: a file is incomplete or not of the kind that its name says; two files hold the
            same weight; a file does not hold what the index says.
    """
    held = {file: read_shapes(file) for file in weight_files(folder)}
    check_together(held, read_weight_map(folder))
    for stray in _visible(folder, f"*{SAFETENSORS}"):
        if stray not in held:
            _refuse_second_model(stray, held)
    return {name: shape for shapes in held.values() for name, shape in shapes.items()}


def weight_files(folder: Path) -> list[Path]:
    """The paths of a part's weight files, all of which exist; reads none of them.

    Raises:
        ValueError: there is no weight file, or one of several is missing.
    """
    index = read_weight_map(folder)
    present = _visible(folder, f"*{SAFETENSORS}")
    names = sorted(set(index.values())) if index is not None else [file.name for file in present]
    missing = [name for name in names if not (folder / name).is_file()]
    if index is None:
        missing = _others_of_series(names)
    if missing or not names:
        raise ValueError(_no_whole_part(folder, missing, [file.name for file in present]))
    return [folder / name for name in names]


def read_weight_map(folder: Path) -> dict[str, str] | None:
    """Read the index of a part: the file of each weight; None for a part without an index."""
    found = _visible(folder, f"*{SAFETENSORS}.index.json")
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"{folder} has two indexes of weights, {found[0].name} and {found[1].name}: it holds "
            f"two models. Leave the files of one there."
        )
    places = read_json(found[0], "an index of weights").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            f"{found[0]} is no index of weights: its weight_map is {shown(places)}, expected the "
            f"name of a file for each weight. Fetch or save it again."
        )
    for name, place in places.items():
        if not isinstance(place, str) or Path(place).name != place or place in ("", ".", ".."):
            raise ValueError(
                f"{found[0]} says that {shown(name)} is in {shown(place)}: expected the name of a "
                f"file beside it. Fetch or save it again."
            )
    return places


def check_counts(folder: Path, counts: Mapping[str, int]) -> None:
    """Raise ValueError for a config that asks for more layers than the files have weights.

    Building so many layers could take forever before the weights are found not to fit. Reads
    headers only.

    Args:
        folder: the part's folder.
        counts: by the config's field, how many layers, or other things with weights, it asks for.
    """
    held = len(read_weight_shapes(folder))
    for name, count in counts.items():
        if count > held:
            raise ValueError(
                f"{folder / 'config.json'} has {name}={shown(count)}, but the files beside it hold "
                f"{held} weights: config and weights come from different models. Take both from "
                f"one place."
            )


def _visible(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder in the order of their names, without hidden ones."""
    return sorted(file for file in folder.glob(pattern) if not file.name.startswith("."))


def _others_of_series(names: list[str]) -> list[str]:
    """The missing files of a series that is named "...-00001-of-00003..."."""
    wanted: dict[str, None] = {}
    for name in names:
        if series := re.fullmatch(r"(.*-)(\d+)(-of-)(\d+)(\.safetensors)", name):
            start, number, of, count, end = series.groups()
            every = range(1, min(int(count), _LONGEST_SERIES) + 1)
            wanted |= dict.fromkeys(f"{start}{i:0{len(number)}}{of}{count}{end}" for i in every)
    return [name for name in wanted if name not in names]


def _no_whole_part(folder: Path, missing: list[str], present: list[str]) -> str:
    lacks = few(missing) if missing else f"any *{SAFETENSORS}"
    start = f"{folder} is no whole part of a model: it lacks {lacks}"
    strays = [name for name in present if name not in missing]
    if missing and not any(unfinished(folder / name) for name in missing) and strays:
        return (
            f"{start}, but holds {few(strays)}: the download was not finished, or an index is "
            f"left from an earlier save. Fetch what is missing, or remove the index if "
            f"{strays[0]} is the whole part."
        )
    first = folder / (missing[0] if missing else "model.safetensors")
    if unfinished(first) or cached_in_part(first) or first.is_symlink():
        return f"{start}; {why_missing(first)}"
    return f"{start}. Name a model folder as `longlive train` writes it."


def _refuse_second_model(stray: Path, held: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise ValueError if a file that the index does not name holds weights that the index has."""
    try:
        names = read_shapes(stray)
    except ValueError:  # whatever it is, it is not read
        return
    check_together({**held, stray: names})


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config of a part; reads no weights."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no part of a model: it holds no config.json. "
            f"Name a model folder as `longlive train` writes it."
        )
    return read_json(file, "a model's config")


@contextmanager
def unfilled() -> Iterator[None]:
    """A context in which modules are built without memory for their parameters; see ``fill``."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Skips drawing normal numbers, which on "meta" would import torch's compiler for nothing."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        named = kwargs or {}
        return named["tensor"] if func is nn.init.normal_ else func(*args, **named)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Replace a module's parameters and buffers by these tensors, without a copy.

    Args:
        module: the module, which may have been built within ``unfilled``.
        tensors: its state dict.
        source: where the tensors come from, for messages.

    Raises:
        ValueError: names, shapes or kinds of numbers are not the module's.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "wrong shapes": [
            f"{name} {list(tensors[name].shape)} for {list(own[name].shape)}"
            for name in sorted(own.keys() & tensors.keys())
            if tensors[name].shape != own[name].shape
        ],
        "wrong types": [
            f"{name} {tensors[name].dtype} for {own[name].dtype}"
            for name in sorted(own.keys() & tensors.keys())
            if not _holds(own[name].dtype, tensors[name].dtype)
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {few(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"{source} does not hold the weights of this {type(module).__name__} ({listed}): "
            f"config and weights come from different models. Take both from one place."
        )
    module.load_state_dict(dict(tensors), assign=True)


def _holds(own: torch.dtype, given: torch.dtype) -> bool:
    """Whether a tensor of type ``given`` can take the place of one of type ``own``."""
    return given.is_floating_point if own.is_floating_point else given == own


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of all safetensors below a folder in the order of their names.

    Those of a light decoder beside a model are left out, unless ``path`` is its own folder. Reads
    every byte: about a second for each gigabyte.
    """
    digest = hashlib.sha256()
    for file in hashed_files(path):
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def hashed_files(path: Path) -> list[Path]:
    """The files that ``fingerprint`` reads, in its order."""
    if path.is_file():
        return [path]
    found = _visible(path, f"**/*{SAFETENSORS}")
    return [file for file in found if BESIDE not in file.relative_to(path).parts]


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors in memory with their names, types and shapes; copies them to the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()
