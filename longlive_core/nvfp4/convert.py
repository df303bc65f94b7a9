"""Give the linears of any model NVFP4 weights, or NVFP4 products, or their plain form back."""

import torch
from torch import nn

from longlive_core.checks import instance
from longlive_core.module_swap import (
    KEEP,
    ConversionReport,
    Keep,
    SwapPlan,
    plan_swap,
    swap_linears,
)
from longlive_core.nvfp4.format import BLOCK
from longlive_core.nvfp4.linear import LinearConfig, NVFP4Linear, ReduceAmax
from longlive_core.nvfp4.training_linear import NVFP4TrainingLinear, TrainingConfig
from longlive_core.tensor_checks import float_type, place


def convert_linears(
    model: nn.Module,
    config: LinearConfig | TrainingConfig | None = None,
    *,
    keep: Keep = KEEP,
    reduce_amax: ReduceAmax | None = None,
    device: torch.device | str | None = None,
) -> ConversionReport:
    """Replace the linears of ``model`` in place, one after another, and say which.

    A ``LinearConfig`` (the default) packs weights into ``NVFP4Linear``, from training linears too;
    a ``TrainingConfig`` makes ``NVFP4TrainingLinear`` of the same parameters. ``keep`` has patterns
    of names and functions of ``(module, name)`` for what to leave (``longlive_core.keep_rules``
    says how they match); pass ``(*KEEP, ...)`` to keep more, ``()`` to keep nothing. ``device`` is
    where each is moved before it is quantized; with it, a model on a CPU is packed on a GPU that
    could not hold it unpacked. Convert before sharding and before compiling.
    """
    config = LinearConfig() if config is None else config
    why = "it says what takes the place of the linears. Leave it out to pack weights in four bits."
    instance("convert_linears' config", config, LinearConfig, TrainingConfig, why=why)
    device = None if device is None else place("convert_linears' device", device)
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
    if isinstance(config, LinearConfig):
        kinds = (nn.Linear, NVFP4TrainingLinear)

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        if isinstance(config, TrainingConfig):
            linear = linear if device is None else linear.to(device)
            return NVFP4TrainingLinear.from_linear(linear, config, reduce_amax=reduce_amax)
        return NVFP4Linear.from_linear(linear, config, reduce_amax=reduce_amax, device=device)

    plan = plan_swap(model, kinds=kinds, why_keep=why_not_convert, keep=keep)
    return swap_linears(model, make, plan)


def plan_conversion(model: nn.Module, *, keep: Keep = KEEP) -> SwapPlan:
    """Which plain linears of ``model`` would be packed and why the others would not.

    Changes nothing and reads no weight: a model on "meta" will do, for packing it from its files.
    """
    return plan_swap(model, kinds=(nn.Linear,), why_keep=why_not_convert, keep=keep)


def decode_linears(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> ConversionReport:
    """Replace every ``NVFP4Linear`` in place by a plain linear with the values that it held.

    For devices where one decoded copy is faster than decoding at each call, such as a CPU.
    """

    float_type("decode_linears' dtype", dtype, why="weights are no whole numbers.")

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, NVFP4Linear)
        return layer.to_linear(dtype)

    plan = plan_swap(model, kinds=(NVFP4Linear,), why_keep=lambda layer: None, keep=())
    return swap_linears(model, make, plan)


def why_not_convert(linear: nn.Module) -> str | None:
    """Why a linear's weight should not be packed, or None."""
    assert isinstance(linear, nn.Linear)
    if linear.in_features % BLOCK or linear.out_features % BLOCK:
        return (
            f"its sizes {linear.in_features} and {linear.out_features} are not both divisible by "
            f"{BLOCK}, the width of a block"
        )
    return None
