"""Numbers in other forms than plain ones: scaled FP8, and NVFP4 of every convention.

``read_forms`` sorts the tensors of a file into plain weights, which are decoded when they are
read, and packed ones. A layer of queries, keys and values in one is taken apart; each part keeps
its own scale.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from longlive_core.nvfp4 import (
    CONVENTIONS,
    Convention,
    NVFP4Tensor,
    QuantizeConfig,
    identify,
    split_rows,
)
from longlive_models.checkpoints.nvfp4 import PUBLISHED_RULES, packed_modules, read_weight
from longlive_models.layouts.sources import Entry

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALED = "scaled_fp8"
"""The tensor by which ComfyUI's files say that their FP8 weights have scales."""

NOTE = "longlive_format"
"""The key of safetensors' metadata under which files of this library say what others' forms do
not: the convention, the order of the scales, and the rule."""

_SCALES = ("scale_weight", "weight_scale")
_POWERS = (torch.uint8, torch.float8_e8m0fnu)
"""The types of scales that are exponents of two."""
_IGNORED = ("spiece_model", "scale_input", "input_scale", "comfy_quant", "weight_format")
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "qkv": ("q", "k", "v"),
    "qkv_proj": ("q", "k", "v"),
}
_PREFIXES = {"torchao": "_weight_"}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A packed weight that can be read: the shape of its values, and what reads it."""

    shape: tuple[int, int]
    read: Callable[[], NVFP4Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What a file of packed weights does not say itself, where its convention leaves it open.

    Attributes:
        convention: its name, where two fit.
        config: the rule by which the weights were quantized.
        swizzled: whether block scales are in tiles.
    """

    convention: str | None = None
    config: QuantizeConfig | None = None
    swizzled: bool | None = None


Forms = tuple[dict[str, Entry], dict[str, Packed]]


def read_forms(
    entries: Mapping[str, Entry], notes: Mapping[str, Any], hints: Hints, source: object
) -> Forms:
    """Plain weights by name, and packed ones by the name of their module.

    Raises:
        ValueError: a scale is missing, or what is needed to read a weight would have to be guessed.
    """
    left = dict(entries)
    _refuse_scaled_inputs(left, source)
    packed = _own(left, source)
    marked = _marked_layers(left, notes)
    hints = _completed(hints, notes, source)
    found: dict[str, dict[str, Entry]] = defaultdict(dict)
    for key, entry in left.items():
        module, _, last = key.rpartition(".")
        found[module][last] = entry
    for module, parts in found.items():
        kind = _convention(module, parts, marked, notes, hints, source)
        if kind is not None:
            packed[module] = _packed(module, parts, kind, hints, marked, source)
            before = _PREFIXES.get(kind.name, "")
            for key in (*kind.names, *kind.also):
                left.pop(f"{module}.{before}{key}", None)
    scaled = SCALED in left or any(_is_fp8_scale(key, left) for key in left)
    plain = _plain(left, scaled, marked, source)
    return _unfused(plain, packed, source)


def _is_fp8_scale(key: str, entries: Mapping[str, Entry]) -> bool:
    """Whether a tensor is the scale of an FP8 weight, or is named as only those are."""
    module, _, last = key.rpartition(".")
    weight = entries.get(f"{module}.weight")
    of_fp8 = weight is not None and weight.dtype in FP8
    return last == "scale_weight" or (of_fp8 and last in _SCALES)


def _refuse_scaled_inputs(entries: Mapping[str, Entry], source: object) -> None:
    """Raise ValueError for layers whose inputs are multiplied by numbers of their own (AWQ)."""
    found = next((key for key in entries if key.endswith(".pre_quant_scale")), None)
    if found is not None:
        raise ValueError(
            f"{source} holds {found}: each input of that layer is multiplied by a number of its "
            f"own before the product (AWQ), and its weight is divided by it, which no layer here "
            f"does. Without it every value is wrong. Take the model quantized without AWQ, or in "
            f"bf16."
        )


def _own(left: dict[str, Entry], source: object) -> dict[str, Packed]:
    """Weights in this library's form, which are taken out of ``left``."""
    packed = {}
    for name in packed_modules(tuple(left)):
        keys = [key for key in left if key.startswith(f"{name}.weight_")]
        held = {key: left.pop(key) for key in keys}
        rows, half = held[f"{name}.weight_codes"].shape
        packed[name] = Packed(shape=(rows, 2 * half), read=_own_reader(name, held, source))
    return packed


def _own_reader(name: str, held: Mapping[str, Entry], source: object) -> Callable[[], NVFP4Tensor]:
    return lambda: read_weight(name, {k: e.read() for k, e in held.items()}, str(source))


def _marked_layers(left: Mapping[str, Entry], notes: Mapping[str, Any]) -> dict[str, str]:
    """By layer, the format that ComfyUI's markers name, in tensors or in the file's metadata."""
    marked = {}
    told = notes.get("_quantization_metadata")
    if isinstance(told, str):
        try:
            layers = json.loads(told).get("layers", {})
        except (ValueError, AttributeError):
            layers = {}
        for layer, what in layers.items() if isinstance(layers, dict) else ():
            kind = what.get("format") if isinstance(what, dict) else what
            marked[re.sub(r"^(?:model\.)?diffusion_model\.", "", layer)] = str(kind)
    for key, entry in left.items():
        if key.endswith(".comfy_quant"):
            try:
                kind = json.loads(bytes(entry.read().flatten().tolist())).get("format")
            except (ValueError, AttributeError):
                kind = None
            marked[key.removesuffix(".comfy_quant")] = str(kind)
    return marked


def _completed(hints: Hints, notes: Mapping[str, Any], source: object) -> Hints:
    """The hints with what the file's notes say of the convention and of the rule."""
    if isinstance(notes.get(NOTE), str):
        said = json.loads(notes[NOTE])
        return Hints(
            convention=hints.convention or said["convention"],
            config=hints.config or QuantizeConfig.from_dict(said["config"]),
            swizzled=said["swizzled"] if hints.swizzled is None else hints.swizzled,
        )
    told = notes.get("quantization")
    named = told.get("weight_scale_rule") if isinstance(told, Mapping) else None
    if named is None:
        return hints
    if named not in PUBLISHED_RULES:
        raise ValueError(
            f"{source} was packed by the rule {named!r}, which is not known: "
            f"{', '.join(PUBLISHED_RULES)}."
        )
    config = QuantizeConfig(rule=PUBLISHED_RULES[named])
    if hints.config is not None and hints.config != config:
        raise ValueError(
            f"{source} says that its rule is {named!r}, and config={hints.config} differs."
        )
    return replace(hints, config=config)


def _convention(
    module: str,
    parts: Mapping[str, Entry],
    marked: Mapping[str, str],
    notes: Mapping[str, Any],
    hints: Hints,
    source: object,
) -> Convention | None:
    """The convention of a module's tensors; None if its weight is not packed."""
    weight = parts.get("weight")
    if marked.get(module) == "nvfp4":
        return CONVENTIONS["comfyui"]
    if weight is not None and weight.dtype == torch.uint8 and set(parts) >= {"weight_scale_2"}:
        named = hints.convention or ("modelopt" if _says_modelopt(notes) else None)
        if named is None:
            raise ValueError(
                f"{source} has packed weights, as {module}, by names that ModelOpt and ComfyUI "
                f"share, with the values of a byte in opposite order, and nothing in it says whose "
                f"they are. Say it with --source modelopt or --source comfyui."
            )
        return CONVENTIONS[named]
    if weight is not None and weight.dtype in (torch.uint32, torch.int32):
        return CONVENTIONS["mlx"]
    names = {_bare(key) for key in parts} - {"bias", *_IGNORED}
    marks = {mark for one in CONVENTIONS.values() for mark in one.names} - {
        *("weight", "scale", "scales", "weight_scale", "comfy_quant"),
    }
    if not names & marks:
        return None
    try:
        return identify(names)
    except ValueError as error:
        raise ValueError(f"{source}: {module}: {error}") from error


def _bare(key: str) -> str:
    return next((key.removeprefix(one) for one in _PREFIXES.values() if key.startswith(one)), key)


def _says_modelopt(notes: Mapping[str, Any]) -> bool:
    config = notes.get("config")
    told = config.get("quantization_config") if isinstance(config, Mapping) else None
    return isinstance(told, Mapping) and told.get("quant_method") == "modelopt"


def _packed(
    module: str,
    parts: Mapping[str, Entry],
    kind: Convention,
    hints: Hints,
    marked: Mapping[str, str],
    source: object,
) -> Packed:
    before = _PREFIXES.get(kind.name, "")
    own = {
        key.removeprefix(before): entry
        for key, entry in parts.items()
        if key.removeprefix(before) in (*kind.names, *kind.also)
    }
    last = module.rpartition(".")[2]
    groups = len(_FUSED.get(last, (last,)))

    def read() -> NVFP4Tensor:
        tensors = {key: entry.read() for key, entry in own.items()}
        if kind.name == "comfyui" and "comfy_quant" not in tensors:
            note = json.dumps({"format": marked[module]}).encode()
            tensors["comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8, device="cpu")
        try:
            return kind.read(
                tensors,
                config=hints.config,
                swizzled=hints.swizzled if kind.swizzled is None else None,
                groups=groups,
            )
        except ValueError as error:
            raise ValueError(f"{source}: {module}: {error}") from error

    return Packed(shape=_values_shape(own, kind), read=read)


def _values_shape(own: Mapping[str, Entry], kind: Convention) -> tuple[int, int]:
    if "quantized_weight_metadata" in own:
        rows, cols = own["quantized_weight_metadata"].read().tolist()[:2]
        return int(rows), int(cols)
    rows, width = own[kind.names[0]].shape
    if kind.name == "gguf":
        return rows, width // 36 * 64
    return rows, width * own[kind.names[0]].dtype.itemsize * 2


def _plain(
    left: Mapping[str, Entry], scaled: bool, marked: Mapping[str, str], source: object
) -> dict[str, Entry]:
    """The weights that are not packed; FP8 ones are decoded, with their scales."""
    plain: dict[str, Entry] = {}
    used: set[str] = {SCALED}
    for key, entry in left.items():
        module, _, last = key.rpartition(".")
        if entry.dtype in FP8 and last in ("weight", "bias"):
            names = [f"{module}.{one}" for one in _SCALES if f"{module}.{one}" in left]
            used |= set(names)
            if not names and last == "weight" and (scaled or module in marked):
                raise ValueError(
                    f"{source} holds {key} in FP8 without its scale ({module}.scale_weight or "
                    f"{module}.weight_scale), though the file says that its weights have scales: "
                    f"without it every value is wrong. Take the file whole."
                )
            _refuse_unknown_scale(key, left, source)
            scale = left[names[0]] if names and last == "weight" else None
            if marked.get(module) == "mxfp8" or (scale is not None and scale.dtype in _POWERS):
                raise ValueError(
                    f"{source} holds {key} in MXFP8, which is not read here: each 32 values of a "
                    f"row share a power of two, whose exponents may be stored in tiles. Take the "
                    f"model in bf16, in FP8 with scales in float32, or in NVFP4."
                )
            plain[key] = _decoded(entry, scale, key, source)
        elif entry.dtype == torch.int8 and module in marked:
            raise ValueError(
                f"{source} holds {key} in {marked[module]}, which is not read here. Take the model "
                f"in bf16, FP8 or NVFP4."
            )
        else:
            plain[key] = entry
    return {
        key: entry
        for key, entry in plain.items()
        if key not in used and key.rpartition(".")[2] not in _IGNORED
    }


def _refuse_unknown_scale(key: str, entries: Mapping[str, Entry], source: object) -> None:
    """Raise ValueError for FP8 that has a scale beside it under a name that is not known here."""
    module = key.rpartition(".")[0]
    for name in (f"{key}_scale_inv", f"{module}.scale", f"{module}.scales"):
        if name in entries and entries[name].dtype.is_floating_point:
            raise ValueError(
                f"{source} holds {key} in FP8 beside {name}, a scale whose meaning is not known "
                f"here: without it every value is wrong. Take the model in bf16, or in FP8 with "
                f"one scale a weight (scale_weight or weight_scale)."
            )


def _decoded(entry: Entry, scale: Entry | None, key: str, source: object) -> Entry:
    """FP8 as bfloat16, which holds each of its values, or times its scale as float32."""
    if scale is None:
        return replace(
            entry,
            dtype=torch.bfloat16,
            read=lambda: entry.read().to(torch.bfloat16),
            decoded=True,
        )

    def read() -> Tensor:
        values, factor = entry.read().float(), scale.read().float()
        rows = values.shape[0]
        by_rows = factor.numel() == factor.shape[:1].numel()
        if factor.numel() != 1 and (not by_rows or not factor.numel() or rows % factor.numel()):
            raise ValueError(
                f"{source}: {key} has {rows} rows and a scale of shape {list(factor.shape)}, which "
                f"is neither one number nor one for each of some equal groups of rows: scales of "
                f"squares are not read here. Take the model in bf16."
            )
        if not bool((factor.isfinite() & (factor > 0)).all()):
            raise ValueError(
                f"{source}: the scale of {key} is not above 0 and finite: the file is damaged. "
                f"Fetch it again."
            )
        if factor.numel() > 1:
            factor = factor.reshape(-1, 1).repeat_interleave(rows // factor.numel(), 0)
        return values * factor.reshape(-1, *(1,) * (values.ndim - 1))

    return replace(entry, dtype=torch.float32, read=read, decoded=True)


def _unfused(plain: dict[str, Entry], packed: dict[str, Packed], source: object) -> Forms:
    """Layers of several in one, taken apart into their rows."""
    apart: dict[str, Entry] = {}
    for key, entry in plain.items():
        module, _, last = key.rpartition(".")
        holder, _, name = module.rpartition(".")
        names = _FUSED.get(name, ())
        if not names or last not in ("weight", "bias") or "attn" not in holder:
            apart[key] = entry
            continue
        if entry.shape[0] % len(names):
            raise ValueError(
                f"{source}: {key} has {entry.shape[0]} rows, which do not divide into "
                f"{', '.join(names)}. It is of another model."
            )
        for index, one in enumerate(names):
            apart[f"{holder}.{one}.{last}"] = entry.split(len(names), index)
    whole: dict[str, Packed] = {}
    for module, weight in packed.items():
        holder, _, name = module.rpartition(".")
        names = _FUSED.get(name, ()) if "attn" in holder else ()
        for index, one in enumerate(names):
            shape = (weight.shape[0] // len(names), weight.shape[1])
            whole[f"{holder}.{one}"] = Packed(
                shape=shape, read=_row_reader(weight, len(names), index)
            )
        if not names:
            whole[module] = weight
    return apart, whole


def _row_reader(weight: Packed, parts: int, index: int) -> Callable[[], NVFP4Tensor]:
    return lambda: split_rows(weight.read(), parts)[index]
