"""Converting a model's files between layouts: those of others, and this library's folders.

Names, forms of numbers and files are changed, values only where a layout cannot hold them, which
the plan says. Weights are read, changed and written one after another; what is written appears
when it is complete, and nothing that is read is changed.

Command:  longlive convert MODEL -o PATH --to comfyui-nvfp4
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule
from longlive_models.adapters import convert_adapter, read_adapter
from longlive_models.checkpoints.folder import unfilled
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.layouts.folders import finish_folder, write_file, write_part
from longlive_models.layouts.forms import Hints
from longlive_models.layouts.part_files import PartFile, open_part
from longlive_models.layouts.whole import require_whole
from longlive_models.published import find_parts, find_tokenizer
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.convert import Convert as Convert
from longlive_recipes.configs.convert import check_paths
from longlive_recipes.run_record import NOT_IN_RECORDS

Progress = Callable[[int, int, str], None]
"""Called after each tensor with how many are done, how many there are, and the tensor's name."""

_DTYPES = {
    "keep": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before weights are read.

    ``parts`` are the files by part, ``exact`` whether every value stays to the bit, and if not,
    ``why`` says what changes. ``tensors`` and ``bytes`` are what is read.
    """

    config: Convert
    output: str
    parts: dict[str, str]
    exact: bool
    why: str
    tensors: int
    bytes: int
    opened: Mapping[str, PartFile] = field(metadata=NOT_IN_RECORDS, compare=False)
    tokenizer: Path | None = field(metadata=NOT_IN_RECORDS, compare=False)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a conversion: what was written, its bytes, and how long it took."""

    output: Path
    parts: tuple[str, ...]
    exact: bool
    bytes: int
    seconds: float


def plan(config: Convert, output: Path) -> Plan:
    """Check everything that can be checked without reading weights.

    Raises:
        ValueError: files that are missing, damaged, or of something else; a layout that cannot
            hold the model, an output that exists, or a disk that is too small.
    """
    check_paths(config, output)
    if config.lora is not None:
        return _plan_adapter(config, Path(config.lora), output)
    source = Path(config.model).expanduser()
    if not source.is_dir() or config.model in ("pocket",):
        source = resolve(config.model)
    found = _wanted(config, find_parts(source), source)
    if len(found) > 1 and output.suffix and output.suffix == config.format.suffix:
        raise ValueError(
            f"{output} is one file, and {source} has {', '.join(found)}: name a folder, or choose "
            f"one with --part."
        )
    opened = {
        part: open_part(path, part, _hints(config) if part == "transformer" else None)
        for part, path in found.items()
    }
    for part in opened.values():
        require_whole(part, more=config.to != "longlive")
    _check_packed(config, opened, source)
    exact, why = _exact(config, opened)
    entries = [one for part in opened.values() for one in part.plain.values()]
    packed = [one for part in opened.values() for one in part.packed.values()]
    size = sum(one.bytes for one in entries)
    size += sum(one.shape[0] * one.shape[1] * 9 // 16 for one in packed)
    _check_room(output, size)
    return Plan(
        config=config,
        output=str(output),
        parts={part: str(path) for part, path in found.items()},
        exact=exact,
        why=why,
        tensors=len(entries) + len(packed),
        bytes=size,
        opened=opened,
        tokenizer=find_tokenizer(source) if source.is_dir() else None,
    )


def run(config: Convert, output: Path, *, progress: Progress | None = None) -> Result:
    """Convert the model. Raises ValueError as ``plan`` does."""
    began = time.perf_counter()
    planned = plan(config, output)
    unfinished = output.with_name(f".{output.name}.unfinished{output.suffix}")
    _remove(unfinished)
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, planned.tensors, name)

    dtype = _DTYPES[config.dtype]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if config.lora is not None:
            layout = config.to.removeprefix("lora-")
            convert_adapter(Path(config.lora), unfinished, _model_of(config), layout=layout)
        elif output.suffix and output.suffix in (config.format.suffix, ".pth"):
            [part] = planned.opened.values()
            swizzled = None if config.scales is None else config.scales == "swizzled"
            write_file(unfinished, part, config.to, dtype=dtype, swizzled=swizzled, progress=tell)
        else:
            unfinished.mkdir()
            for part in planned.opened.values():
                write_part(unfinished, part, config.to, dtype=dtype, progress=tell)
            finish_folder(unfinished, planned.opened, config.to, planned.tokenizer)
        unfinished.rename(output)
    finally:
        _remove(unfinished)
    files = [output] if output.is_file() else [file for file in output.rglob("*") if file.is_file()]
    return Result(
        output=output,
        parts=tuple(planned.parts),
        exact=planned.exact,
        bytes=sum(file.stat().st_size for file in files),
        seconds=time.perf_counter() - began,
    )


def _plan_adapter(config: Convert, source: Path, output: Path) -> Plan:
    """The plan for an adapter, which is read, and has to fit the model."""
    adapter = read_adapter(source, _model_of(config))
    numbers = sum(one.down.numel() + one.up.numel() for one in adapter.matrices.values())
    size = 4 * numbers
    _check_room(output, size)
    return Plan(
        config=config,
        output=str(output),
        parts={f"adapter ({adapter.layout})": str(source)},
        exact=True,
        why="",
        tensors=2 * len(adapter.matrices),
        bytes=size,
        opened={},
        tokenizer=None,
    )


def _model_of(config: Convert) -> WanTransformer:
    """The transformer that an adapter is for, without weights."""
    spec = read_spec(resolve(config.model))
    with unfilled():
        return WanTransformer(spec.transformer)


def _wanted(config: Convert, found: dict[str, Path], source: Path) -> dict[str, Path]:
    part = "transformer" if config.format.alone else config.part
    if part == "all":
        return found
    if part not in found:
        raise ValueError(
            f"{source} holds no {part} (it holds {', '.join(found)}), and {config.to} is asked for "
            f"with it. Choose another --part, or another layout."
        )
    return {part: found[part]}


def _hints(config: Convert) -> Hints:
    rule = None if config.rule is None else QuantizeConfig(rule=ScaleRule(config.rule))
    swizzled = None if config.scales is None else config.scales == "swizzled"
    return Hints(convention=config.source, config=rule, swizzled=swizzled)


def _check_packed(config: Convert, opened: Mapping[str, PartFile], source: Path) -> None:
    """Raise ValueError if the layout holds packed weights and the source has none."""
    if config.format.packed and not opened["transformer"].packed:
        raise ValueError(
            f"{config.to} holds weights in NVFP4, and those of {source} are plain: converting does "
            f"not round. Make a folder (--to longlive), pack it with `longlive quantize`, and "
            f"convert that."
        )
    if config.to in ("torchao", "transformer-engine") and config.scales is None:
        raise ValueError(
            f"{config.to} has block scales in two orders: say --scales linear or swizzled."
        )


def _exact(config: Convert, opened: Mapping[str, PartFile]) -> tuple[bool, str]:
    """Whether all values stay to the bit, and what changes if not."""
    reasons = []
    transformer = opened.get("transformer")
    if transformer is not None and transformer.packed:
        if config.to in ("mlx", "compressed-tensors"):
            reasons.append("tensor scales may be rounded in their last bit")
        elif not config.format.packed and config.to != "longlive" and config.dtype != "fp32":
            reasons.append("packed weights are decoded and rounded to 16 bits")
    if config.to == "comfyui-fp8":
        reasons.append("block linears are rounded to FP8")
    if config.to == "gguf-q8_0":
        reasons.append("block linears are rounded to 8 bits in blocks of 32")
    wanted = _DTYPES[config.dtype]
    entries = [one for part in opened.values() for one in part.plain.values()]
    if wanted is not None and any(
        one.dtype.is_floating_point and not _holds(wanted, one.dtype) for one in entries
    ):
        reasons.append(f"plain weights are rounded to {config.dtype}")
    return not reasons, "; ".join(reasons)


def _holds(wanted: torch.dtype, given: torch.dtype) -> bool:
    return torch.promote_types(wanted, given) == wanted


def _check_room(output: Path, size: int) -> None:
    folder = output.parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"{output} takes about {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left. "
            f"Name another --output."
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
