"""Adding adapters to a model, several at once with weights, and taking them off again exactly.

Adapters of one linear become one: their matrices are put side by side, scaled by weight and alpha::

    y = base(x) + [w1 s1 B1, w2 s2 B2] [A1; A2] x
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_models.adapters.adapter import Adapter, Matrices, as_float, find_parameter
from longlive_models.adapters.reading import adapter_files, read_adapter
from longlive_models.lora import QUANTIZED, LoRALinear, adapters
from longlive_models.lora_config import LoRAConfig
from longlive_models.lora_source import LoRASource


class Attached:
    """Adapters that stand beside a model's linears; made by ``attach``."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers: dict[str, LoRALinear] = {}
        self._former: dict[str, Tensor] = {}

    @property
    def linears(self) -> tuple[str, ...]:
        """The names of the linears that have adapters."""
        return tuple(self._layers)

    def merge(self) -> None:
        """Merge those beside plain weights, so that their layers compute one product only."""
        for layer in self._layers.values():
            if not isinstance(layer.base_layer, QUANTIZED):
                layer.merge()

    def unmerge(self) -> None:
        """Undo ``merge``, bit for bit."""
        for layer in self._layers.values():
            layer.unmerge()

    @torch.no_grad()
    def remove(self) -> None:
        """Take the adapters off: every weight is again what it was, bit for bit."""
        self.unmerge()
        for name, layer in self._layers.items():
            _replace(self._model, name, layer.base_layer)
        for name, former in self._former.items():
            _parameter(self._model, name).data = former
        self._layers, self._former = {}, {}

    def fuse(self) -> None:
        """Merge for good what stands beside plain weights, and forget the former weights."""
        for name, layer in list(self._layers.items()):
            if not isinstance(layer.base_layer, QUANTIZED):
                layer.merge()
                _replace(self._model, name, layer.base_layer)
                del self._layers[name]
        self._former = {}


@torch.no_grad()
def attach(
    model: nn.Module,
    adapters_and_weights: Iterable[tuple[Adapter, float]],
    *,
    dtype: torch.dtype = torch.float32,
) -> Attached:
    """Put adapters beside the linears of ``model``, in place; nothing of them is trained.

    Args:
        model: its linears may be plain or packed.
        adapters_and_weights: each adapter with the factor of what it adds.
        dtype: the type that the adapters compute in.

    Raises:
        ValueError: an adapter is of another model, or the model has adapters already; nothing is
            changed then.
    """
    given = list(adapters_and_weights)
    if present := next((name for name, _ in adapters(model)), None):
        raise ValueError(
            f"the model has adapters already, as beside {present}: fuse them (fuse_lora) or take "
            f"them off, and name all adapters at once."
        )
    for adapter, _ in given:
        adapter.require_fit(model)
    attached = Attached(model)
    several: dict[str, list[tuple[Matrices, float]]] = defaultdict(list)
    for adapter, weight in given:
        for name, matrices in adapter.matrices.items():
            several[name].append((matrices, weight))
        for name, difference in adapter.differences.items():
            parameter = _parameter(model, name)
            attached._former.setdefault(name, parameter.data)
            total = as_float(parameter.data) + weight * as_float(difference).to(parameter.device)
            parameter.data = total.to(parameter.dtype)
    for name, found in several.items():
        layer = _beside(model.get_submodule(name), found, dtype)
        _replace(model, name, layer)
        attached._layers[name] = layer
    return attached


def attach_files(model: nn.Module, files: Sequence[str], *, dtype: torch.dtype) -> Attached:
    """``attach`` of the adapters in files, each named as FILE:WEIGHT."""
    sources = [LoRASource.parse(one) for one in files]
    read = [(read_adapter(one.path, model), one.weight) for one in sources]
    return attach(model, read, dtype=dtype)


def check_files(model: nn.Module, files: Sequence[str]) -> None:
    """Raise ValueError for adapters that do not fit ``model``, which may be on "meta"."""
    for one in files:
        source = LoRASource.parse(one)
        read_adapter(source.path, model)


def file_names(files: Sequence[str]) -> list[tuple[str, Path]]:
    """The files of adapters named as FILE:WEIGHT, each with what it is in a model's hash."""
    named = []
    for one in files:
        source = LoRASource.parse(one)
        named += [(f"adapter {source.weight!r}", file) for file in adapter_files(source.path)]
    return named


def _beside(
    base: nn.Module, found: Sequence[tuple[Matrices, float]], dtype: torch.dtype
) -> LoRALinear:
    """A linear with the adapters beside it as one, whose scale is 1."""
    rank = sum(one.rank for one, _ in found)
    layer = LoRALinear(base, LoRAConfig(rank=rank, alpha=rank), dtype=dtype)
    layer.requires_grad_(False).eval()
    layer.lora_A.weight.copy_(torch.cat([one.down for one, _ in found]))
    layer.lora_B.weight.copy_(
        torch.cat([one.up * (weight * one.scale) for one, weight in found], 1)
    )
    return layer


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    found = find_parameter(model, name)
    assert found is not None
    return found[0].get_parameter(found[1])


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    holder, _, last = name.rpartition(".")
    setattr(model.get_submodule(holder), last, module)
