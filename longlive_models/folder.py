"""A part of a model folder on disk: ``config.json`` and safetensors, split below a file size."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longlive_models.documents import read_json

SHARD = "15MB"
"""No weight file is larger: the shipped model's files stay under 16 MiB."""

_SHOWN = 5


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
        ValueError: the folder lacks its config or a file of its weights, or one cannot be read.
    """
    config = read_config(folder)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ValueError(
                f"{file} cannot be read as safetensors ({error}): it may have been copied or "
                f"downloaded in part. Fetch it again."
            ) from error
    return config, tensors


def weight_files(folder: Path) -> list[Path]:
    """The files of a part's weights, which are there; reads none of them.

    Raises:
        ValueError: there is none, or one that the part's index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index, "an index of weights")["weight_map"].values()))
    else:
        names = sorted(file.name for file in folder.glob("*.safetensors"))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"{folder} is no whole part of a model: it lacks "
            f"{', '.join(missing) if missing else 'any *.safetensors'}. "
            f"Name a model folder as `longlive train` writes it."
        )
    return [folder / name for name in names]


def read_config(folder: Path) -> dict[str, Any]:
    """The config alone; reads no weights."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no part of a model: it holds no config.json. "
            f"Name a model folder as `longlive train` writes it."
        )
    return read_json(file, "a model's config")


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules built within have parameters without memory or values, for ``fill``."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Draws no normal numbers: on "meta" that would import the whole compiler, for nothing."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        named = kwargs or {}
        return named["tensor"] if func is nn.init.normal_ else func(*args, **named)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Let a module's parameters be these tensors, without a copy; it may be ``unfilled``.

    Raises:
        ValueError: names or shapes are not the module's; ``source`` says where they come from.
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
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"{source} does not hold the weights of this {type(module).__name__} ({listed}): "
            f"config and weights come from different models. Take both from one place."
        )
    module.load_state_dict(dict(tensors), assign=True)


def fingerprint(path: Path) -> str:
    """SHA-256 of a weight file, or of all safetensors below a folder in the order of their names.

    It reads them whole: a second or so for every gigabyte.
    """
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors in memory with their names, types and shapes; copies them to the CPU."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
