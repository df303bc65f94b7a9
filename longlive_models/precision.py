"""Setting the precision of a transformer's linears, and receipts of what each of them runs on."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from longlive_core import float8, nvfp4
from longlive_core.backends import Receipt
from longlive_core.module_swap import plan_swap, receipts, swap_linears
from longlive_core.names import few
from longlive_models.checkpoints.folder import fill, load_part, read_config, unfilled
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.nvfp4 import ReduceAmax, load_packed, split_quantization
from longlive_models.published import find_weights, holds_packed
from longlive_models.runtime import PRECISIONS, Runtime, why_not_eight_bits
from longlive_models.wan import WanConfig, WanTransformer

_SHOWN = 3


def load_transformer(
    folder: Path, config: WanConfig, runtime: Runtime, reduce_amax: ReduceAmax | None = None
) -> WanTransformer:
    """Load the transformer of a model folder to the CPU; packed linears stay packed.

    ``reduce_amax`` is for linears whose inputs several ranks share (``NVFP4Linear``).
    Raises ValueError for weights that do not fit the config.
    """
    _, tensors = load_part(folder)
    with unfilled():
        transformer = WanTransformer(config, attention=runtime.attention)
    _, packed = split_quantization(read_config(folder))
    if packed is None:
        fill(transformer, tensors, folder)
        return transformer
    run = runtime.packed_linears(packed)
    load_packed(transformer, tensors, packed, run=run, reduce_amax=reduce_amax, source=folder)
    return transformer


def stored_precision(folder: Path) -> str:
    """How a model's block linears are stored: "plain", or "nvfp4, RULE"; reads no weight."""
    if is_published(folder):
        weights = find_weights(folder)
        return "nvfp4" if weights is not None and holds_packed(weights) else "plain"
    _, packed = split_quantization(read_config(folder / "transformer"))
    return "plain" if packed is None else f"nvfp4, {packed.weight.rule.value}"


def set_precision(
    model: nn.Module, runtime: Runtime, reduce_amax: ReduceAmax | None = None
) -> dict[str, str]:
    """Give the block linears of ``model`` the precision that ``runtime`` names, in place.

    Packed linears stay packed or are decoded once, one after another. If none is packed, plain ones
    are quantized one after another, on the device where they will run. Returns, by name, the reason
    why a linear is plain afterwards.
    """
    packed = any(isinstance(module, nvfp4.NVFP4Linear) for module in model.modules())
    config = runtime.linears
    if packed and isinstance(config, nvfp4.LinearConfig):
        kept = nvfp4.plan_conversion(model).kept
        return {name: kept.get(name, "the files hold it unpacked") for name in _plain(model)}
    notes: dict[str, str] = {}
    if packed:
        decoded = _decode(model, runtime)
        notes = dict.fromkeys(decoded, "packed in its file, decoded while it was loaded")
    if isinstance(config, float8.Float8Config):
        return dict(float8.convert_linears(model, config, device=runtime.device).kept)
    if isinstance(config, nvfp4.LinearConfig):
        converted = nvfp4.convert_linears(
            model, config, reduce_amax=reduce_amax, device=runtime.device
        )
        return dict(converted.kept)
    return notes


def _decode(model: nn.Module, runtime: Runtime) -> tuple[str, ...]:
    """Replace packed linears by plain ones, or by ones in FP8 where ``runtime`` asks for that.

    One after another: none but the one that is replaced is in float32, unless it is to stay so.
    Returns the names of those that were packed.
    """
    config, place = runtime.linears, runtime.placing()
    plan = plan_swap(model, kinds=(nvfp4.NVFP4Linear,), why_keep=lambda layer: None, keep=())
    packed = {name: model.get_submodule(name) for name in plan.swapped}
    swap_linears(model, _without_weight, plan)
    names = {id(model.get_submodule(name)): name for name in plan.swapped}
    eight_bits: tuple[str, ...] = ()
    if isinstance(config, float8.Float8Config):
        eight_bits = float8.plan_conversion(model, config).swapped

    def decode(empty: nn.Module) -> nn.Module:
        name = names[id(empty)]
        layer = packed.pop(name)
        assert isinstance(layer, nvfp4.NVFP4Linear)
        linear = layer.to_linear(torch.float32)
        if name in eight_bits:
            assert isinstance(config, float8.Float8Config)
            return float8.Float8Linear.from_linear(linear.to(runtime.device), config)
        if place is not None:
            linear.weight = nn.Parameter(place(linear.weight.detach()), requires_grad=False)
        return linear

    return swap_linears(model, decode, plan).swapped


def _without_weight(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nvfp4.NVFP4Linear)
    return nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")


def model_receipts(
    model: nn.Module, runtime: Runtime, notes: Mapping[str, str]
) -> dict[str, tuple[Receipt, ...]]:
    """The backend of each linear of ``model``, by name; ``notes`` come from ``set_precision``.

    Raises:
        BackendUnavailable: no backend can run a layer here.
    """
    asked = "nvfp4" if runtime.weights in PRECISIONS else runtime.weights
    found = _receipts(model)
    refused: dict[str, str] = {}
    if runtime.quality == "high" and runtime.weights in PRECISIONS:
        why = why_not_eight_bits(runtime.device)
        refused["fp8"] = f"weights={runtime.weights!r} were named" if why is None else why
    for name in _plain(model):
        reasons = {"torch": "usable"} | refused | ({asked: notes[name]} if name in notes else {})
        found[name] = (
            Receipt(
                operation="linear",
                requested=runtime.weights,
                backend="torch",
                device=str(runtime.device),
                reasons=reasons,
            ),
        )
    return {name: found[name] for name, _ in model.named_modules() if name in found}


def _receipts(model: nn.Module) -> dict[str, tuple[Receipt, ...]]:
    """The receipts of all layers of a model; blocks that wait on the host are asked on the device.

    Where they wait they would tell of backends of the host.
    """
    if not isinstance(model, WanTransformer) or model.offload is None:
        return receipts(model)
    found: dict[str, tuple[Receipt, ...]] = {}
    for part, child in model.named_children():
        if child is not model.blocks:
            found |= {f"{part}.{name}": own for name, own in receipts(child).items()}
    for number, block in enumerate(model.blocks):
        with model.offload.visit(number):
            found |= {f"blocks.{number}.{name}": own for name, own in receipts(block).items()}
    return found


def in_short(found: Mapping[str, tuple[Receipt, ...]]) -> tuple[str, ...]:
    """Receipts as lines of text; layers with equal receipts share a line."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name, several in found.items():
        for receipt in several:
            alike[str(receipt)].append(name)
    return tuple(
        line if names == [line.partition(":")[0]] else f"{line} [{few(names, _SHOWN)}]"
        for line, names in alike.items()
    )


def _plain(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) is nn.Linear]
