"""Quantizing a transformer's linears while their weights are read, so that one is plain at a time.

Weights that a file holds in a form of its own (GGUF's blocks, FP8 with scales) are decoded in
memory, at four bytes a value. Read as a whole, a model of 5 billion parameters would take 20 GB of
the host before the first of them is in eight or four bits.
"""

import torch
from torch import Tensor, nn

from longlive_core import float8, nvfp4
from longlive_core.module_swap import SwapPlan, swap_linears
from longlive_models.checkpoints.folder import fill
from longlive_models.checkpoints.nvfp4 import ReduceAmax
from longlive_models.checkpoints.tensor_files import require_numbers
from longlive_models.layouts.part_files import PartFile
from longlive_models.runtime import LinearsConfig, Runtime


def fill_quantized(
    model: nn.Module,
    part: PartFile,
    runtime: Runtime,
    reduce_amax: ReduceAmax | None = None,
    *,
    check: bool = True,
) -> None:
    """Fill a model, in place, with a file's weights, block linears in ``runtime``'s precision.

    Each is read, quantized on the device where it will run, and let go before the next is read. The
    numbers are those of filling the model first and quantizing it then.

    Args:
        model: a model with plain linears, which may have been built within ``unfilled``.
        part: the file, none of whose weights is packed.
        runtime: its ``linears`` are not None.
        reduce_amax: for linears whose inputs several ranks share (``NVFP4Linear``).
        check: search the weights for NaN and infinities.

    Raises:
        ValueError: a weight cannot be read, holds no number, or does not fit the model.
    """
    config = runtime.linears
    assert config is not None and not part.packed
    plan = _plan(model, config)
    places = {id(model.get_submodule(name)): name for name in plan.swapped}

    def read(name: str) -> Tensor:
        tensor = part.plain[name].read()
        if check:
            require_numbers({name: tensor}, part.path)
        return tensor

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        weight = read(f"{places[id(linear)]}.weight")
        layer = _quantized(weight, config, runtime.device, reduce_amax)
        layer.bias = linear.bias
        return layer

    swap_linears(model, make, plan)
    tensors: dict[str, Tensor] = {}
    for name in plan.swapped:
        held = model.get_submodule(name).state_dict()
        tensors |= {f"{name}.{key}": one for key, one in held.items() if key != "bias"}
    place = runtime.placing(stay_plain=True)
    quantized = {f"{name}.weight" for name in plan.swapped}
    for name, entry in part.plain.items():
        if name not in quantized:
            tensor = read(name)
            tensors[name] = tensor if place is None or not entry.decoded else place(tensor)
    fill(model, tensors, part.path)


def _plan(model: nn.Module, config: LinearsConfig) -> SwapPlan:
    if isinstance(config, float8.Float8Config):
        return float8.plan_conversion(model, config)
    return nvfp4.plan_conversion(model)


def _quantized(
    weight: Tensor, config: LinearsConfig, device: torch.device, reduce_amax: ReduceAmax | None
) -> float8.Float8Linear | nvfp4.NVFP4Linear:
    """A layer with this weight, without a bias."""
    rows, cols = weight.shape
    linear = nn.Linear(cols, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if isinstance(config, float8.Float8Config):
        return float8.Float8Linear.from_linear(linear.to(device), config)
    return nvfp4.NVFP4Linear.from_linear(linear, config, reduce_amax=reduce_amax, device=device)
