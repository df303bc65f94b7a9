"""Reading adapters in the key layouts of PEFT, kohya, ComfyUI, Diffusers and LightX2V.

========= ==========================================================================================
peft      ``base_model.model.<module>.lora_A.weight``, ``.lora_B.weight``; a config has rank, alpha
kohya     ``lora_unet_<module with _ for .>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``
comfyui   ``diffusion_model.<module>.`` with either pair of names, ``.alpha``
diffusers ``transformer.<module as Diffusers names it>.lora_A.weight``, ``.lora_B.weight``
lightx2v  ``<module>.lora_down.weight``, ``.lora_up.weight``, with or without a prefix;
          ``.diff`` (of a weight), ``.diff_b`` (of a bias), ``.diff_m`` (of a modulation)
========= ==========================================================================================

A pair without an alpha is scaled by 1. What is not understood is refused, never left out.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from longlive_core.names import few
from longlive_models.adapters.adapter import (
    Adapter,
    Matrices,
    as_float,
    require_floats,
)
from longlive_models.checkpoints.tensor_files import (
    SAFETENSORS,
    read_pickle,
    read_safetensors,
    require_numbers,
    state_dict_in,
    why_missing,
)
from longlive_models.documents import parse_json, read_json
from longlive_models.layouts.key_maps import to_published
from longlive_models.layouts.recognize import PARTS, named
from longlive_models.layouts.sources import open_source
from longlive_models.layouts.wrappers import unwrapped
from longlive_models.lora import HOLDERS, WEIGHTS
from longlive_models.lora_config import CONFIG, LoRAConfig

PREFIXES = {
    "base_model.model.": "peft",
    "diffusion_model.": "comfyui",
    "transformer.": "diffusers",
    "lora_unet_": "kohya",
    "": "bare",
}
"""What stands before a module's name, and which layout that is; the last one is none at all."""
_DOWN_UP = {"lora_down.weight": "down", "lora_up.weight": "up"}
_A_B = {"lora_A.weight": "down", "lora_B.weight": "up"}
_NAMED = {"lora_A.default.weight": "down", "lora_B.default.weight": "up"}
_DIFFERENCES = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}
_PARTS = {
    **_DOWN_UP,
    **_A_B,
    **_NAMED,
    "alpha": "alpha",
    **dict.fromkeys(_DIFFERENCES, "difference"),
}
_STYLES = {"lora_down and lora_up": set(_DOWN_UP), "lora_A and lora_B": {*_A_B, *_NAMED}}
_HEADER = "lora_adapter_metadata"
_TEXT = ("lora_te", "text_encoder.", "text_encoders.", "te1_", "te2_")


@dataclass(frozen=True)
class _Key:
    """A key taken apart: what stands before the module's name, that name, and what ends it."""

    prefix: str
    module: str
    end: str


def read_adapter(
    source: str | Path | Mapping[str, Tensor],
    model: nn.Module,
    *,
    config: LoRAConfig | None = None,
) -> Adapter:
    """Read an adapter of any of the layouts above, for ``model``.

    Args:
        source: a ``.safetensors``, ``.pt`` or ``.pth`` file, a folder that PEFT wrote, or a state
            dict.
        model: the model that it is for, perhaps on "meta": its names and sizes are looked at.
        config: the alpha of tensors that bring none.

    Raises:
        ValueError: a file that cannot be read, a mixture of layouts, keys that are not understood,
            or an adapter of another model.
    """
    where = "" if isinstance(source, Mapping) else f"{source}: "
    try:
        tensors, stored = _read(source)
        adapter = _adapter(tensors, model, stored or config)
        adapter.require_fit(model)
    except ValueError as error:
        if where and (part := _part_in(Path(str(source)))):
            raise ValueError(
                f"{where}it holds {part}, and an adapter (LoRA) is expected there. Name a model "
                f"by --model, and its adapters by --lora."
            ) from error
        said = str(error)
        raise ValueError(said if where and str(source) in said else f"{where}{said}") from error
    return adapter


def adapter_files(path: Path) -> tuple[Path, ...]:
    """The files that an adapter at ``path`` is read from: a file, or PEFT's two in a folder."""
    return (path / WEIGHTS, path / CONFIG) if path.is_dir() else (path,)


def _part_in(path: Path) -> str | None:
    """The part of a model that a file holds, in words; None for other files."""
    try:
        found = named(unwrapped(open_source(path).entries))[1]
    except ValueError:
        return None
    return found.words if found.part in PARTS else None


def _read(
    source: str | Path | Mapping[str, Tensor],
) -> tuple[Mapping[str, Tensor], LoRAConfig | None]:
    if isinstance(source, Mapping):
        require_numbers(source, "the state dict")
        return source, None
    path = Path(source)
    if not path.exists():
        raise ValueError(f"there is no adapter {str(path)!r}; {why_missing(path)}")
    config = path.with_name(CONFIG) if path.name == WEIGHTS else None
    if path.is_dir():
        for file in adapter_files(path):
            if not file.is_file():
                raise ValueError(
                    f"it is no adapter's folder: it holds no {file.name}; {why_missing(file)}"
                )
        path, config = adapter_files(path)
    stored = None
    if config is not None and config.is_file():
        stored = LoRAConfig.from_peft(read_json(config, "an adapter's config"))
    if path.suffix == SAFETENSORS:
        tensors = read_safetensors(path)
        return tensors, stored or _config_in(path)
    return state_dict_in(read_pickle(path), path, HOLDERS), stored


def _config_in(path: Path) -> LoRAConfig | None:
    """PEFT's config as Diffusers writes it into the header of a file; None if there is none."""
    with safe_open(path, "pt") as file:
        content = (file.metadata() or {}).get(_HEADER)
    if content is None:
        return None
    values = parse_json(content, f"{_HEADER} of {path}")
    own = {
        name.removeprefix("transformer."): value
        for name, value in values.items()
        if name.startswith("transformer.")
    }
    return LoRAConfig.from_peft(own) if own else None


def _adapter(tensors: Mapping[str, Tensor], model: nn.Module, config: LoRAConfig | None) -> Adapter:
    keys = {name: _take_apart(name) for name in tensors}
    if not keys:
        raise ValueError("it holds no tensors, so it is no adapter.")
    layout = _layout(keys)
    names = _module_names({key.module for key in keys.values()}, layout, model)
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    differences: dict[str, Tensor] = {}
    for name, key in keys.items():
        module, kind = names[key.module], _PARTS[key.end]
        if kind == "difference":
            require_floats(name, tensors[name], None)
            own = f"{module}.{_DIFFERENCES[key.end]}" if module else _DIFFERENCES[key.end]
            differences[own] = tensors[name]
        elif kind in parts[module]:
            raise ValueError(
                f"two tensors are the {kind} of {module}, one of them {name}: there are two "
                f"adapters. Save one."
            )
        else:
            parts[module][kind] = tensors[name]
    matrices = {module: _matrices(module, found, config) for module, found in parts.items()}
    return Adapter(matrices=matrices, differences=differences, layout=layout)


def _take_apart(name: str) -> _Key:
    """Take a key apart. Raises ValueError for one that no layout has."""
    if name.startswith(_TEXT):
        raise ValueError(
            f"it has keys of a text encoder, as {name}: adapters of text encoders are not read. "
            f"Train or save it for the transformer alone."
        )
    prefix = next(one for one in PREFIXES if name.startswith(one))
    rest = name.removeprefix(prefix)
    for end in _PARTS:
        if rest.endswith(f".{end}"):
            return _Key(prefix, rest.removesuffix(f".{end}"), end)
    raise ValueError(
        f"it holds {name}, which is neither of the two matrices of plain LoRA, nor an alpha, nor a "
        f"difference: it would change what the adapter makes. Merge it with the program that "
        f"trained it, and load the merged weights."
    )


def _layout(keys: Mapping[str, _Key]) -> str:
    """The layout of all keys. Raises ValueError if there are two."""
    examples: dict[str, str] = {}
    for name, key in keys.items():
        examples.setdefault(key.prefix, name)
    if len(examples) > 1:
        first, second = list(examples.values())[:2]
        raise ValueError(
            f"it mixes two layouts, as {first} and {second} show: which model each half is for "
            f"cannot be told. Save it in one."
        )
    ends = {key.end: name for name, key in keys.items()}
    styles = [few([ends[end] for end in ends if end in own], 1) for own in _STYLES.values()]
    if all(any(end in own for end in ends) for own in _STYLES.values()):
        raise ValueError(
            f"it mixes {' with '.join(_STYLES)}, as {styles[1]} and {styles[0]} show: there are "
            f"two adapters, of which one may be an older save. Save one."
        )
    [prefix] = examples
    layout = PREFIXES[prefix]
    if layout == "kohya" and any(end in ends for end in (*_A_B, *_NAMED)):
        raise ValueError(
            f"it mixes two layouts: {examples[prefix]} begins as kohya's keys do and ends as "
            f"PEFT's. Save it in one."
        )
    if layout == "bare":
        down = any(end in ends for end in (*_DOWN_UP, *_DIFFERENCES))
        return "lightx2v" if down else "peft"
    differs = any(end in ends for end in _DIFFERENCES)
    return "lightx2v" if layout == "comfyui" and differs else layout


def _module_names(found: set[str], layout: str, model: nn.Module) -> dict[str, str]:
    """The model's names of modules in a file. Names that it lacks stay as they are."""
    if layout == "kohya":
        flat: dict[str, list[str]] = defaultdict(list)
        for name, _ in model.named_modules():
            flat[name.replace(".", "_")].append(name)
        for name in sorted(found):
            if len(flat.get(name, ())) > 1:
                raise ValueError(
                    f"{name} may be {' or '.join(flat[name])}: kohya's keys have _ for every dot. "
                    f"Save the adapter in PEFT's layout."
                )
        return {name: flat[name][0] if name in flat else name for name in found}
    known = {name for name, _ in model.named_modules()}
    foreign = {f"{name}.weight": name for name in found if name not in known}
    published = to_published("transformer", foreign)
    names = {name: name for name in found}
    for key, name in foreign.items():
        own = (published[key] or "").removesuffix(".weight")
        if own in known and own:
            names[name] = own
    return _each_once(names)


def _each_once(names: dict[str, str]) -> dict[str, str]:
    """Raise ValueError if two names in a file are of one module."""
    back: dict[str, str] = {}
    for name, own in names.items():
        if own in back:
            raise ValueError(
                f"{back[own]} and {name} are the same module of the model, under the names of two "
                f"layouts: there are two adapters. Save one."
            )
        back[own] = name
    return names


def _matrices(module: str, found: Mapping[str, Tensor], config: LoRAConfig | None) -> Matrices:
    for part in ("down", "up"):
        if part not in found:
            raise ValueError(
                f"{module} lacks its {'first' if part == 'down' else 'second'} matrix (lora_"
                f"{'A' if part == 'down' else 'B'}, lora_{part}): the file is not whole, or keys "
                f"were lost when it was converted. Save it again."
            )
        require_floats(f"the lora_{part} of {module}", found[part], 2)
    down, up = as_float(found["down"]), as_float(found["up"])
    rank = down.shape[0]
    if up.shape[1] != rank or not rank:
        raise ValueError(
            f"the matrices of {module} have the ranks {rank} and {up.shape[1]}: they are halves of "
            f"two adapters. Save one."
        )
    if config is not None and config.rank != rank:
        raise ValueError(
            f"the matrices of {module} have the rank {rank}, and the adapter's config says "
            f"{config.rank}: they are of two adapters. Take both from one save."
        )
    alpha = float(rank) if config is None else config.alpha
    if "alpha" in found:
        if found["alpha"].numel() != 1:
            raise ValueError(
                f"the alpha of {module} is a single number, got a tensor of shape "
                f"{list(found['alpha'].shape)}: the product of the matrices is scaled by alpha / "
                f"rank. Save the adapter again."
            )
        alpha = found["alpha"].detach().to(torch.float64).item()
    return Matrices(down=down, up=up, alpha=alpha)
