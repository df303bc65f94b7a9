"""The formats that linears are converted to, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from longlive_core import float8, nvfp4
from longlive_core.module_swap import ConversionReport
from longlive_core.nvfp4 import LinearConfig, QuantizeConfig, TrainingConfig


def w4a16(model: nn.Module, **how: Any) -> ConversionReport:
    return nvfp4.convert_linears(model, **how)


def w4a4(model: nn.Module, **how: Any) -> ConversionReport:
    return nvfp4.convert_linears(model, LinearConfig(activation=QuantizeConfig()), **how)


def fp8(model: nn.Module, **how: Any) -> ConversionReport:
    return float8.convert_linears(model, **how)


def training(model: nn.Module, **how: Any) -> ConversionReport:
    return nvfp4.convert_linears(model, TrainingConfig(), **how)


PACKED: dict[str, Callable[..., ConversionReport]] = {"w4a16": w4a16, "w4a4": w4a4, "fp8": fp8}
FORMATS = {**PACKED, "training": training}
