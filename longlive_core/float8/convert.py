"""Give the linears of any model FP8 weights, or FP8 products in training."""

import torch
from torch import nn

from longlive_core.checks import instance
from longlive_core.float8.linear import Float8Config, Float8Linear, why_not_convert
from longlive_core.float8.tensor import ReduceAmax
from longlive_core.float8.training_linear import (
    Float8TrainingConfig,
    Float8TrainingLinear,
    why_not_train,
)
from longlive_core.module_swap import (
    KEEP,
    ConversionReport,
    Keep,
    SwapPlan,
    plan_swap,
    swap_linears,
)
from longlive_core.tensor_checks import place


def convert_linears(
    model: nn.Module,
    config: Float8Config | Float8TrainingConfig | None = None,
    *,
    keep: Keep = KEEP,
    reduce_amax: ReduceAmax | None = None,
    device: torch.device | str | None = None,
) -> ConversionReport:
    """Replace the linears of ``model`` in place, one after another, and say which.

    A ``Float8Config`` (the default) packs weights into ``Float8Linear``, from training linears too;
    a ``Float8TrainingConfig`` makes ``Float8TrainingLinear`` of the same parameters, which
    ``reduce_amax`` is for. ``keep`` has patterns of names and functions for what to leave
    (``longlive_core.keep_rules`` says how they match); ``device`` is where each is moved before it
    is rounded. Convert before sharding and before compiling.
    """
    config = Float8Config() if config is None else config
    why = "it says what shares a scale. Leave it out to pack weights in eight bits."
    instance("convert_linears' config", config, Float8Config, Float8TrainingConfig, why=why)
    device = None if device is None else place("convert_linears' device", device)

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        linear = linear if device is None else linear.to(device)
        if isinstance(config, Float8TrainingConfig):
            return Float8TrainingLinear.from_linear(linear, config, reduce_amax=reduce_amax)
        return Float8Linear.from_linear(linear, config)

    return swap_linears(model, make, plan_conversion(model, config, keep=keep))


def plan_conversion(
    model: nn.Module, config: Float8Config | Float8TrainingConfig, *, keep: Keep = KEEP
) -> SwapPlan:
    """Which linears of ``model`` would be replaced and why the others would not.

    Changes nothing and reads no weight: a model on "meta" will do.
    """
    kinds: tuple[type[nn.Module], ...] = (nn.Linear,)
    if isinstance(config, Float8Config):
        kinds = (nn.Linear, Float8TrainingLinear)

    def why_keep(linear: nn.Module) -> str | None:
        assert isinstance(linear, nn.Linear)
        if isinstance(config, Float8TrainingConfig):
            return why_not_train(linear.in_features, linear.out_features)
        return why_not_convert(linear.in_features, linear.out_features, config)

    return plan_swap(model, kinds=kinds, why_keep=why_keep, keep=keep)
