"""LoRA: small trained matrices beside frozen linears, plain or quantized.

    y = base(x) + (alpha / rank) * B A x          A [rank, in], B [out, rank], B zero at first

Files are in PEFT's layout: tensors named ``base_model.model.<module>.lora_A.weight``, and a
config beside them. The adapters of the original LongLive-2.0 (rank and alpha 128, on the ten
linears of every block) are read from its ``.pt`` files as well.
"""

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.checks import instance
from longlive_core.float8 import Float8Linear
from longlive_core.names import few
from longlive_core.nvfp4 import NVFP4Linear
from longlive_core.tensor_checks import check_model
from longlive_models.checkpoints.disk import save_tensors
from longlive_models.checkpoints.tensor_files import (
    SAFETENSORS,
    read_pickle,
    read_safetensors,
    require_numbers,
    state_dict_in,
    why_missing,
)
from longlive_models.documents import read_json
from longlive_models.lora_config import CONFIG
from longlive_models.lora_config import LoRAConfig as LoRAConfig

PREFIX = "base_model.model."
HOLDERS = ("generator_lora", "critic_lora")
WEIGHTS = "adapter_model.safetensors"
QUANTIZED = (NVFP4Linear, Float8Linear)


class LoRALinear(nn.Module):
    """A linear, plain or quantized, with an adapter beside it. Its submodules have PEFT's names.

    The adapter computes in the type of its own weights, and its output is rounded once to the type
    of the base's output. ``merge`` adds the product of its matrices to the base's weight, and
    ``unmerge`` restores the former weight bit for bit.
    """

    base_layer: nn.Module

    def __init__(
        self, base: nn.Module, config: LoRAConfig, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise ValueError(f"LoRA goes beside a linear, got {type(base).__name__}.")
        device = next(iter((*base.parameters(), *base.buffers()))).device
        linear = partial(nn.Linear, bias=False, device=device, dtype=dtype)
        self.base_layer = base
        self.lora_A = linear(base.in_features, config.rank)
        self.lora_B = linear(config.rank, base.out_features)
        self.lora_dropout = nn.Dropout(config.dropout)
        self.config = config
        self._former: tuple[nn.Module | Tensor, ...] = ()  # in a tuple: no part of the model
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.train(base.training)  # dropout is of training alone

    @property
    def scale(self) -> float:
        """The factor of the adapter's output, ``alpha / rank``."""
        return self.config.alpha / self.config.rank

    @property
    def merged(self) -> bool:
        """Whether the base's weight holds the adapter's product."""
        return bool(self._former)

    @property
    def delta(self) -> Float[Tensor, "out in"]:
        """The product of the adapter's matrices, scaled, in float32."""
        with torch.autocast(self.lora_A.weight.device.type, enabled=False):
            return self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        y = self.base_layer(x)
        if self.merged:
            return y
        narrow = self.lora_A(self.lora_dropout(x.to(self.lora_A.weight.dtype)))
        return y + (self.lora_B(narrow) * self.scale).to(y.dtype)

    @torch.no_grad()
    def merge(self, *, requantize: bool = False) -> None:
        """Add the adapter to the base's weight; the sum is in float32, rounded once to its type.

        A packed weight is then rounded to its format once more, which changes every value a little;
        this needs ``requantize=True`` and is a ValueError otherwise.
        """
        if self.merged:
            return
        base = self.base_layer
        if isinstance(base, QUANTIZED) and not requantize:
            raise ValueError(
                f"merging into a {type(base).__name__} rounds its packed weight once more: merge "
                f"into the plain weight and quantize that, or pass requantize=True."
            )
        if not isinstance(base, QUANTIZED):
            assert isinstance(base, nn.Linear)
            self._former = (base.weight.data,)
            base.weight.data = (base.weight.float() + self.delta).to(base.weight.dtype)
            return
        plain = base.to_linear(torch.float32)
        plain.weight.data += self.delta
        again = type(base).from_linear(plain, base.config)  # type: ignore[arg-type]
        again.bias = base.bias
        self._former, self.base_layer = (base,), again.train(base.training)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restore the weight as it was before ``merge``, bit for bit."""
        for former in self._former:
            if isinstance(former, Tensor):
                assert isinstance(self.base_layer, nn.Linear)
                self.base_layer.weight.data = former
            else:
                self.base_layer = former
        self._former = ()

    def _apply(self, fn: Any, recurse: bool = True) -> "LoRALinear":
        self._former = tuple(
            fn(former) if isinstance(former, Tensor) else former._apply(fn)
            for former in self._former
        )
        return super()._apply(fn, recurse)


def add_lora(
    model: nn.Module, config: LoRAConfig | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[str, ...]:
    """Put adapters beside the targets of ``model``, in place, and freeze all the rest.

    Targets may be plain linears or quantized ones, and may be quantized later. Returns the names of
    the linears that got an adapter. Raises ValueError if no linear is a target, or if the model has
    adapters already.
    """
    config = LoRAConfig() if config is None else config
    instance("add_lora's config", config, LoRAConfig, why="it says which linears get an adapter.")
    if present := [name for name, _ in adapters(model)]:
        raise ValueError(
            f"the model has adapters already ({few(present)}): fuse them (fuse_lora) or load into "
            f"them (load_lora)."
        )
    names = tuple(_targets(model, config))
    model.requires_grad_(False)
    for name in names:
        _replace(model, name, LoRALinear(model.get_submodule(name), config, dtype=dtype))
    return names


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapters of a model, by the names of the linears that they stand beside."""
    check_model(model)
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def merge_lora(model: nn.Module, *, requantize: bool = False) -> None:
    """Merge every adapter (see ``LoRALinear.merge``), so that a layer computes one product only.

    ``unmerge_lora`` undoes it.
    """
    for _, layer in adapters(model):
        layer.merge(requantize=requantize)


def unmerge_lora(model: nn.Module) -> None:
    """Undo ``merge_lora``: every weight is again what it was, bit for bit."""
    for _, layer in adapters(model):
        layer.unmerge()


def fuse_lora(model: nn.Module, *, requantize: bool = False) -> tuple[str, ...]:
    """Merge every adapter and remove it; the linears have their former names again."""
    found = list(adapters(model))
    for name, layer in found:
        layer.merge(requantize=requantize)
        _replace(model, name, layer.base_layer)
    return tuple(name for name, _ in found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors under PEFT's names."""
    return {
        f"{PREFIX}{name}.{part}.weight": layer.get_submodule(part).get_parameter("weight")
        for name, layer in adapters(model)
        for part in ("lora_A", "lora_B")
    }


def save_lora(model: nn.Module, folder: Path, *, base_model: str = "") -> None:
    """Write the adapters as PEFT does: tensors and a config. Raises ValueError if there is none."""
    configs = {layer.config for _, layer in adapters(model)}
    if len(configs) != 1:
        raise ValueError(
            f"an adapter's folder holds adapters of one config, this model has {len(configs)}: add "
            f"them with add_lora."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in lora_state_dict(model).items()}
    save_tensors(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    content = configs.pop().to_peft(base_model)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


@torch.no_grad()
def load_lora(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    config: LoRAConfig | None = None,
) -> LoRAConfig:
    """Load adapters into ``model``; they are added to it if it has none.

    Args:
        model: the transformer.
        source: a folder that PEFT or ``save_lora`` wrote, a ``.safetensors`` file, a ``.pt`` file
            of the original (the tensors may be under ``generator_lora``), or a state dict.
        config: rank, alpha and targets, for sources that have no config file (tensors do not say
            alpha); the original's by default.

    Raises:
        ValueError: names or shapes are not those of the model's adapters.
    """
    tensors, stored = _read(source)
    config = stored or config or LoRAConfig()
    present = dict(adapters(model))
    for name, layer in present.items():
        if layer.merged or layer.config != config:
            raise ValueError(
                f"{name} has an adapter of its own, {layer.config}"
                f"{', merged' if layer.merged else ''}; the one to load is {config}. Fuse the "
                f"former (fuse_lora), or load into a model without adapters."
            )
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if (name := _peft_name(key)) in found:
            raise ValueError(
                f"two tensors become {name}, one of them {key}: there are two adapters. Save one."
            )
        found[name] = tensor
    try:
        linears = {name: model.get_submodule(name) for name in _targets(model, config)}
        _check(found, linears, config)
    except ValueError as error:
        where = "" if isinstance(source, Mapping) else f"{source}: "
        raise ValueError(f"{where}{error}") from error
    if not present:
        add_lora(model, config)
    for name, tensor in lora_state_dict(model).items():
        tensor.copy_(found[name])
    return config


def _targets(model: nn.Module, config: LoRAConfig) -> list[str]:
    """The linears of ``model`` that are targets of ``config``, by name."""
    kinds = (nn.Linear, LoRALinear)
    linears = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    names = [name for name in linears if config.matches(name)]
    if not names:
        raise ValueError(
            f"no linear of this {type(model).__name__} is called {', '.join(config.targets)}: its "
            f"linears are {few(linears)}. Name others as LoRAConfig(targets=...)."
        )
    return names


def _check(
    found: Mapping[str, Tensor], linears: Mapping[str, nn.Module], config: LoRAConfig
) -> None:
    """Raise ValueError for tensors that are not adapters of these linears."""
    own: dict[str, list[int]] = {}
    for name, linear in linears.items():
        base = linear.base_layer if isinstance(linear, LoRALinear) else linear
        assert isinstance(base, nn.Linear)
        own[f"{PREFIX}{name}.lora_A.weight"] = [config.rank, base.in_features]
        own[f"{PREFIX}{name}.lora_B.weight"] = [base.out_features, config.rank]
    problems = {
        "missing": [name for name in own if name not in found],
        "unexpected": [name for name in found if name not in own],
        "wrong shapes": [
            f"{name} {list(found[name].shape)} for {shape}"
            for name, shape in own.items()
            if name in found and list(found[name].shape) != shape
        ],
        "no numbers": [name for name, x in found.items() if not x.is_floating_point()],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {few(names)}" for what, names in problems.items() if names)
        raise ValueError(f"the adapter does not fit ({listed}): {_misfit(found, own, config)}")


def _misfit(found: Mapping[str, Tensor], own: Mapping[str, list[int]], config: LoRAConfig) -> str:
    """Why tensors do not fit these linears, as far as can be told, and the way out."""
    ranks = {x.shape[0] for name, x in found.items() if name.endswith(".lora_A.weight") and x.ndim}
    if ranks and ranks != {config.rank}:
        return (
            f"its rank is {', '.join(map(str, sorted(ranks)))}, and {config.rank} was expected. "
            f"Pass its config=LoRAConfig(rank=..., alpha=..., targets=...)."
        )
    more = [name for name in found if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if more:
        return (
            f"it holds more than the two matrices of plain LoRA, as {more[0]}, which change what "
            f"it makes. Merge it with the program that trained it, and load the merged weights."
        )
    return (
        "it is of another model, or stands beside other linears than "
        f"{', '.join(config.targets)}. Pass its config=LoRAConfig(targets=...), or load it into "
        "the model that it was trained with."
    )


def _read(
    source: str | Path | Mapping[str, Tensor],
) -> tuple[Mapping[str, Tensor], LoRAConfig | None]:
    if isinstance(source, Mapping):
        require_numbers(source, "the state dict")
        return source, None
    path = Path(source)
    if path.is_dir():
        for name in (WEIGHTS, CONFIG):
            if not (path / name).is_file():
                raise ValueError(
                    f"{path} is no adapter's folder: it holds no {name}; {why_missing(path / name)}"
                )
        values = read_json(path / CONFIG, "an adapter's config")
        try:
            config = LoRAConfig.from_peft(values)
        except ValueError as error:
            raise ValueError(f"{path / CONFIG}: {error}") from error
        return read_safetensors(path / WEIGHTS), config
    if path.suffix == SAFETENSORS:
        return read_safetensors(path), None
    return state_dict_in(read_pickle(path), path, HOLDERS), None


def _peft_name(key: str) -> str:
    """A tensor's name in PEFT's files: with their prefix, without the adapter's own name."""
    key = key.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
    return key if key.startswith(PREFIX) else PREFIX + key


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    holder, _, last = name.rpartition(".")
    setattr(model.get_submodule(holder), last, module)
