"""Packing a model folder in four bits: weights are read, packed and written one after another.

Memory holds one plain weight, and packed ones that are not yet written. So a model can be packed
on a machine that could not hold it.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from longlive_core.module_swap import KEEP, ConversionReport, Keep, SwapPlan
from longlive_core.nvfp4 import plan_conversion, quantize_weight
from longlive_models.checkpoints.disk import copy_tree, save_tensors
from longlive_models.checkpoints.folder import (
    check_counts,
    fingerprint,
    read_config,
    unfilled,
    weight_files,
)
from longlive_models.checkpoints.hub import INDEX
from longlive_models.checkpoints.nvfp4 import KEY, PackedConfig, packed_state
from longlive_models.checkpoints.tensor_files import require_numbers
from longlive_models.documents import read_json
from longlive_models.wan import WanConfig, WanTransformer

PART = "transformer"
FILE_BYTES = 1_000_000_000
"""The most bytes of a weight file; a tensor that would make it larger starts the next one."""

Progress = Callable[[int, int, str], None]
"""Called after each tensor with how many are done, how many there are, and the tensor's name."""


@dataclass(frozen=True, kw_only=True)
class PackedFolder:
    """The result of packing a model folder."""

    folder: Path
    source_sha256: str
    sha256: str
    report: ConversionReport


def plan_packing(source: Path, keep: Keep = KEEP) -> SwapPlan:
    """List the linears of a model folder that would be packed; reads configs only.

    Raises:
        ValueError: the folder is no model or is packed already, or ``keep`` matches no linear.
    """
    values = read_config(source / PART)
    if KEY in values:
        raise ValueError(
            f"{source} is packed already: pack the model that it was made from, or packing would "
            f"round twice."
        )
    config = WanConfig.from_dict(values)
    check_counts(source / PART, {"num_layers": config.num_layers})
    with unfilled():
        model = WanTransformer(config)
    return plan_conversion(model, keep=keep)


def pack_model_folder(
    source: Path,
    target: Path,
    config: PackedConfig,
    *,
    keep: Keep = KEEP,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    file_bytes: int = FILE_BYTES,
    progress: Progress | None = None,
) -> PackedFolder:
    """Write a copy of a model folder in which the transformer's linears are packed.

    Weights are quantized on ``device``, from the type that the source has; those that are not
    packed are converted to ``dtype``. The target folder appears when it is complete, and its index
    has the source's hash. Raises ValueError as ``plan_packing`` does, and if the target exists.
    """
    if target.exists():
        raise ValueError(f"{target} exists: name another folder, or remove it.")
    plan = plan_packing(source, keep)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        copy_tree(source, unfinished, _without_weights(source / PART))
        before, after = _pack_part(
            source / PART,
            unfinished / PART,
            config,
            plan,
            _Files(unfinished / PART, file_bytes),
            dtype=dtype,
            device=torch.device(device),
            progress=progress,
        )
        origin, packed = fingerprint(source), fingerprint(unfinished)
        notes = {"weights_sha256": packed, "packed_from_sha256": origin, KEY: config.to_dict()}
        _note(unfinished / INDEX, notes)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    report = ConversionReport(
        swapped=plan.swapped, kept=plan.kept, bytes_before=before, bytes_after=after
    )
    return PackedFolder(folder=target, source_sha256=origin, sha256=packed, report=report)


def _pack_part(
    source: Path,
    target: Path,
    config: PackedConfig,
    plan: SwapPlan,
    files: "_Files",
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None,
) -> tuple[int, int]:
    """Write the part's tensors; returns their bytes before and after packing."""
    wanted = {f"{name}.weight": name for name in plan.swapped}
    total = sum(len(names) for _, names in _names(source))
    before = after = done = 0
    for file, names in _names(source):
        with safe_open(file, framework="pt") as held:
            for key in names:
                tensor = held.get_tensor(key)
                require_numbers({key: tensor}, file)
                before += tensor.nbytes
                if key in wanted:
                    packed = quantize_weight(tensor, config.weight, device=device)
                    out = packed_state(wanted.pop(key), packed)
                else:
                    out = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor}
                del tensor
                for name, value in out.items():
                    after += value.nbytes
                    files.add(name, value.cpu())
                done += 1
                if progress is not None:
                    progress(done, total, key)
    if wanted:
        raise ValueError(
            f"{source} lacks {next(iter(wanted))} and {len(wanted) - 1} more: config and weights "
            f"come from different models."
        )
    files.close()
    values = read_config(source) | {KEY: config.to_dict()}
    (target / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    return before, after


class _Files:
    """Safetensors files of a part, each written when it is full."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.tensors: dict[str, Tensor] = {}
        self.bytes = self.total = 0
        self.written: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor; writes those before it to a file first if that would become too large."""
        if self.tensors and self.bytes + tensor.nbytes > self.limit:
            self._write()
        self.tensors[name] = tensor.contiguous()
        self.bytes += tensor.nbytes
        self.total += tensor.nbytes

    def close(self) -> None:
        """Write the rest; then give the files their final names, and write the index."""
        self._write()
        count = len(self.written)
        if count == 1:
            self._path(1).rename(self.folder / "model.safetensors")
            return
        places: dict[str, str] = {}
        for number, names in enumerate(self.written, start=1):
            final = f"model-{number:05d}-of-{count:05d}.safetensors"
            self._path(number).rename(self.folder / final)
            places |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self.total}, "weight_map": places}
        text = json.dumps(index, indent=2) + "\n"
        (self.folder / "model.safetensors.index.json").write_text(text)

    def _write(self) -> None:
        self.written.append(list(self.tensors))
        path = self._path(len(self.written))
        save_tensors(self.tensors, path, metadata={"format": "pt"})
        self.tensors, self.bytes = {}, 0

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.unnumbered"


def _names(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as held:
            yield file, list(held.keys())


def _without_weights(part: Path) -> Callable[[str, list[str]], list[str]]:
    """An ``ignore`` function for ``copytree`` that leaves out the files that are written anew."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        return names if Path(folder) == part else []

    return ignore


def _note(index: Path, notes: Mapping[str, Any]) -> None:
    """Add the source of the packed model to its index."""
    content = read_json(index) | dict(notes)
    index.write_text(json.dumps(content, indent=2) + "\n")
