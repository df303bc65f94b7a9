"""Reading and writing checkpoints in four bits: this library's, the original's, other libraries'.

A packed part of a model folder has four tensors in place of each packed weight, ``weight_codes``,
``weight_scales``, ``weight_amax`` and ``weight_format``, and a ``quantization_config`` in its
``config.json``. The tensors are of integer types that hold bits, so that a cast of the model does
not change them. Loading follows the tensors; the config informs readers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longlive_core.module_swap import ConversionReport, plan_swap, swap_linears
from longlive_core.nvfp4 import (
    CONVENTIONS,
    Convention,
    LinearConfig,
    NVFP4Linear,
    NVFP4Tensor,
    QuantizeConfig,
    ScaleRule,
    decode_linears,
    dequantize,
    identify,
    read_format,
)
from longlive_core.training_linear import ReduceAmax as ReduceAmax
from longlive_models.checkpoints.folder import fill
from longlive_models.checkpoints.tensor_files import read_pickle, state_dict_in
from longlive_models.unknown_keys import refuse_unknown_keys
from longlive_models.wan import published_keys

KEY = "quantization_config"
METHOD = "longlive_nvfp4"

PUBLISHED_FORMAT = "longlive_generator_nvfp4"
PUBLISHED_RULES = {rule.row.original: rule for rule in ScaleRule}
"""The names that the original's files have for scale rules."""


_PACKED = {
    "weight_codes": torch.uint8,
    "weight_scales": torch.uint8,
    "weight_amax": torch.int32,
    "weight_format": torch.int32,
}
_CODES = "weight_codes"
_IN_FILES = {"torchao": "_weight_"}
"""The prefix of a convention's names in a state dict."""


@dataclass(frozen=True, kw_only=True)
class PackedConfig:
    """The content of the ``quantization_config`` of a packed part.

    Attributes:
        weight: the config with which the weights were quantized.
        activation: the config for the inputs, if the part runs in four bits throughout (W4A4).
    """

    weight: QuantizeConfig
    activation: QuantizeConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for ``config.json``."""
        activation = None if self.activation is None else self.activation.to_dict()
        return {"quant_method": METHOD, "weight": self.weight.to_dict(), "activation": activation}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PackedConfig":
        """The config that ``to_dict`` gave. Raises ValueError for other libraries' configs."""
        if values.get("quant_method") != METHOD:
            raise ValueError(
                f"{KEY} says quant_method={values.get('quant_method')!r}, and only {METHOD!r} is "
                f"loaded directly. Bring other packed weights over with `import_state`."
            )
        refuse_unknown_keys(KEY, values, ("quant_method", "weight", "activation"))
        activation = values.get("activation")
        return cls(
            weight=QuantizeConfig.from_dict(values["weight"]),
            activation=None if activation is None else QuantizeConfig.from_dict(activation),
        )


def split_quantization(values: Mapping[str, Any]) -> tuple[dict[str, Any], PackedConfig | None]:
    """Split a part's config into the model's fields and its ``quantization_config`` (or None)."""
    rest = {name: value for name, value in values.items() if name != KEY}
    return rest, PackedConfig.from_dict(values[KEY]) if KEY in values else None


def packed_modules(names: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the modules whose weights are packed in a state dict."""
    ending = f".{_CODES}"
    return tuple(name.removesuffix(ending) for name in names if name.endswith(ending))


def load_packed(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    config: PackedConfig,
    *,
    run: LinearConfig | None = None,
    decode: torch.dtype | None = None,
    reduce_amax: ReduceAmax | None = None,
    source: str | Path = "the checkpoint",
) -> ConversionReport:
    """Load packed weights into ``model``, in place: packed linears replace its plain ones.

    The model may be on "meta". ``run`` says how the linears compute: W4A16 by default,
    ``LinearConfig(activation=config.activation)`` for W4A4. If ``decode`` is a type, they become
    plain linears of that type instead. ``reduce_amax`` is for linears whose inputs several ranks
    share (``NVFP4Linear``). Raises ValueError for weights that do not fit the model.
    """
    run = LinearConfig() if run is None else run
    modules = packed_modules(tensors)
    formats = {}
    for name in modules:
        weight = read_weight(name, tensors, source)
        formats[name] = weight.config, weight.shape

    def why_keep(linear: nn.Module) -> str | None:
        return None if id(linear) in wanted else "its weight is not packed"

    wanted = {id(module): name for name, module in model.named_modules() if name in formats}
    plan = plan_swap(model, kinds=(nn.Linear,), why_keep=why_keep, keep=())
    if lost := sorted(set(modules) - set(plan.swapped)):
        raise ValueError(
            f"{source} has a packed weight for {lost[0]}, which is no linear of this "
            f"{type(model).__name__}: config and weights come from different models."
        )

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        weight, _ = formats[wanted[id(linear)]]
        return NVFP4Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            config=replace(run, weight=weight),
            reduce_amax=reduce_amax,
            device="meta",
        )

    report = swap_linears(model, make, plan)
    fill(model, tensors, source)
    if decode is not None:
        return decode_linears(model, decode)
    return report


def packed_state(name: str, weight: NVFP4Tensor) -> dict[str, Tensor]:
    """The state-dict entries of one packed weight."""
    buffers = NVFP4Linear.from_packed(weight).state_dict()
    return {f"{name}.{key}": tensor for key, tensor in buffers.items()}


def read_weight(
    name: str, tensors: Mapping[str, Tensor], source: str | Path = "the checkpoint"
) -> NVFP4Tensor:
    """Read one packed weight of a state dict; the inverse of ``packed_state``.

    Raises ValueError if one of its tensors is missing, was cast, or has impossible scales.
    """
    if missing := [key for key in _PACKED if f"{name}.{key}" not in tensors]:
        raise ValueError(
            f"{source} has {name}.{_CODES} without {name}.{missing[0]}: a packed weight is "
            f"{', '.join(_PACKED)}. A part of the file is missing; take it whole."
        )
    for key, dtype in _PACKED.items():
        if (found := tensors[f"{name}.{key}"].dtype) != dtype:
            raise ValueError(
                f"{source} has {name}.{key} in {found}, and it holds bits as {dtype}: the "
                f"checkpoint was cast when it was saved. Take the original file."
            )
    config, shape = read_format(tensors[f"{name}.weight_format"])
    weight = NVFP4Tensor(
        codes=tensors[f"{name}.weight_codes"],
        block_scales=tensors[f"{name}.weight_scales"].view(torch.float8_e4m3fn),
        amax=tensors[f"{name}.weight_amax"].view(torch.float32),
        config=config,
        shape=shape,
    )
    if (problem := weight.scale_problem()) is not None:
        raise ValueError(
            f"{source} has a packed weight {name} that cannot be read: {problem}. The file is "
            f"damaged, or was packed from NaN or infinite weights. Take the original file."
        )
    return weight


def decode_state(
    tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A part's tensors with packed weights decoded; all of them of type ``dtype``."""
    modules = packed_modules(tensors)
    packed = {f"{name}.{key}" for name in modules for key in _PACKED}
    plain = {name: tensor.to(dtype) for name, tensor in tensors.items() if name not in packed}
    return plain | {
        f"{name}.weight": dequantize(read_weight(name, tensors), dtype) for name in modules
    }


def import_state(
    state: Mapping[str, Tensor],
    *,
    config: QuantizeConfig | None = None,
    swizzled: bool | None = None,
) -> dict[str, Tensor]:
    """Convert a state dict with another library's packed weights to this library's form.

    The library is recognized by its tensors' names (``longlive_core.nvfp4.CONVENTIONS``);
    ``config`` and ``swizzled`` say what its files do not. Tensors that are not packed stay as they
    are; stored scales of activations are left out, since activations are scaled when they are
    computed. Raises ValueError if nothing is packed, if two libraries could have written the
    tensors, or if something that is needed would have to be guessed.
    """
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        name, _, last = key.rpartition(".")
        found[name][last] = tensor
    kinds = {name: kind for name, parts in found.items() if (kind := _kind(parts)) is not None}
    if not kinds:
        raise ValueError(
            f"the state dict holds no packed weight of a library that is known here "
            f"({', '.join(CONVENTIONS)})."
        )
    taken: dict[str, Tensor] = {}
    left = dict(state)
    for name, kind in kinds.items():
        before = _IN_FILES.get(kind.name, "")
        known = {f"{before}{key}": key for key in (*kind.names, *kind.also)}
        own = {known[key]: tensor for key, tensor in found[name].items() if key in known}
        try:
            weight = kind.read(own, config=config, swizzled=swizzled)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        taken |= packed_state(name, weight)
        for key in known:
            left.pop(f"{name}.{key}", None)
    return left | taken


def export_state(
    state: Mapping[str, Tensor], convention: str, *, swizzled: bool | None = None
) -> dict[str, Tensor]:
    """Convert a packed state dict to another library's form; the inverse of ``import_state``."""
    if convention not in CONVENTIONS:
        raise ValueError(f"no convention {convention!r}; there are {', '.join(CONVENTIONS)}.")
    kind, modules = CONVENTIONS[convention], packed_modules(state)
    before = _IN_FILES.get(convention, "")
    packed = {f"{name}.{key}" for name in modules for key in _PACKED}
    out = {name: tensor for name, tensor in state.items() if name not in packed}
    for name in modules:
        written = kind.write(read_weight(name, state), swizzled=swizzled)
        out |= {f"{name}.{before}{key}": tensor for key, tensor in written.items()}
    return out


def read_published(
    path: str | Path, *, config: QuantizeConfig | None = None
) -> tuple[dict[str, Tensor], PackedConfig]:
    """Read the original's packed file (``model_4o6.pt``); tensors get this library's form.

    Returns the tensors and the config.

    ``config`` is for files that do not name their scale rule. Raises ValueError for other files,
    and if the file and ``config`` contradict each other.
    """
    content = read_pickle(path)
    content = content if isinstance(content, Mapping) else {}
    stored = content.get("checkpoint_format")
    if stored != PUBLISHED_FORMAT or not isinstance(content.get("generator"), Mapping):
        raise ValueError(
            f"{path} is no packed checkpoint of the original: its checkpoint_format is {stored!r}, "
            f"not {PUBLISHED_FORMAT!r}. Files in bfloat16 load as they are."
        )
    named = content.get("quantization", {}).get("weight_scale_rule")
    if named is not None:
        if named not in PUBLISHED_RULES:
            raise ValueError(
                f"{path} was packed by the rule {named!r}, which is not known: "
                f"{', '.join(PUBLISHED_RULES)}."
            )
        told = QuantizeConfig(rule=PUBLISHED_RULES[named])
        if config is not None and config != told:
            raise ValueError(
                f"{path} says that its rule is {named!r}, and config={config} differs."
            )
        config = told
    state = published_keys(state_dict_in(content["generator"], Path(path)))
    tensors = import_state(state, config=config)
    name = packed_modules(tensors)[0]
    return tensors, PackedConfig(weight=read_weight(name, tensors).config)


def write_published(path: str | Path, tensors: Mapping[str, Tensor], config: PackedConfig) -> None:
    """Write packed tensors in the form of the original's packed file.

    Raises ValueError for a bound of the scales that the original does not use.
    """
    rules = {rule: name for name, rule in PUBLISHED_RULES.items()}
    usual = QuantizeConfig(rule=config.weight.rule)
    if config.weight.largest_scale != usual.largest_scale:
        raise ValueError(
            f"the original's packed file has no word for a bound of {config.weight.largest_scale} "
            f"with {config.weight.rule.value}: quantize with {usual.largest_scale}."
        )
    generator = {f"model.{k}": v for k, v in export_state(tensors, "longlive").items()}
    quantization = {
        "format": "nvfp4",
        "backend": "fouroversix",
        "materialized": True,
        "weight_scale_rule": rules[config.weight.rule],
    }
    content = {
        "generator": generator,
        "checkpoint_format": PUBLISHED_FORMAT,
        "checkpoint_version": 1,
        "quantization": quantization,
    }
    torch.save(content, path)


def _kind(parts: Mapping[str, Tensor]) -> Convention | None:
    """The name of the convention of a module's tensors; None for a module that is not packed."""
    names = set()
    for key in parts:
        starts = [before for before in _IN_FILES.values() if key.startswith(before)]
        names.add(key.removeprefix(starts[0]) if starts else key)
    marks = {mark for one in CONVENTIONS.values() for mark in one.names} - {"weight", "scale"}
    return identify(names - {"bias"}) if names & marks else None
