"""Quantizers of others that run on a CPU, as oracles; each is skipped where it is not there.

Neither can be a dependency of the tests: Transformer Engine without its CUDA part raises when it
is imported and breaks ``import peft``; fouroversix is a source that builds beside an installed
torch. For the first, unpack the wheel of ``transformer-engine`` (2.20.2) into a folder and name the
folder in PYTHONPATH; for the second, ``SKIP_CUDA_BUILD=1 pip install --no-build-isolation --no-deps
fouroversix`` (1.0.5).
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule

Quantizer = Callable[[Tensor, QuantizeConfig], tuple[Tensor, Tensor]]
"""From a matrix of whole blocks to codes and the bytes of linear block scales, one a row."""

TE = "transformer_engine.pytorch"
FOUROVERSIX_RULES = {
    ScaleRule.FOUR_OVER_SIX_MSE: "mse",
    ScaleRule.FOUR_OVER_SIX_MAE: "mae",
    ScaleRule.FOUR_OVER_SIX_ABS_MAX: "abs_max",
}


def transformer_engine(monkeypatch: pytest.MonkeyPatch) -> Quantizer:
    """Its reference in Python, loaded without the package, which needs CUDA to be imported."""
    spec = importlib.util.find_spec("transformer_engine")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path()
    if not (folder / "pytorch/custom_recipes/reference_nvfp4.py").is_file():
        pytest.skip("the files of transformer-engine, an oracle, are not in Python's path")
    for name in ("", ".pytorch", ".pytorch.custom_recipes", ".pytorch.tensor"):
        package = ModuleType(f"transformer_engine{name}")
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    tensors = ModuleType(f"{TE}.quantized_tensor")
    vars(tensors).update(Quantizer=_Usage, QuantizedTensorStorage=object)
    monkeypatch.setitem(sys.modules, tensors.__name__, tensors)
    utils = ModuleType(f"{TE}.tensor.utils")
    vars(utils).update(is_custom=lambda tensor: False)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    loaded = ("gemm", "reference_utils", "reference_nvfp4")
    for name in loaded:
        monkeypatch.delitem(sys.modules, f"{TE}.custom_recipes.{name}", raising=False)
    _, formats, reference = (
        importlib.import_module(f"{TE}.custom_recipes.{name}") for name in loaded
    )

    def quantize(x: Tensor, config: QuantizeConfig) -> tuple[Tensor, Tensor]:
        quantizer = reference.NVFP4QuantizerRef(
            dtype=formats.Fp4Formats.E2M1,
            columnwise=False,
            quant_tile_shape=config.block,
            nvfp4_use_4over6=config.rule.adaptive,
            nvfp4_e4m3_max=config.largest_scale,
            nvfp4_4over6_err_mode="MAE" if "mae" in config.rule else "MSE",
        )
        q = quantizer.quantize(x)
        return q.data, q.scale.view(torch.uint8)

    return quantize


class _Usage:
    """What Transformer Engine's reference takes from its base class."""

    def __init__(self, *, rowwise: bool, columnwise: bool) -> None:
        self.rowwise_usage, self.columnwise_usage = rowwise, columnwise


def fouroversix() -> Quantizer:
    """Its backend in PyTorch; the original's quantizer is a copy of it."""
    if importlib.util.find_spec("fouroversix") is None:
        pytest.skip("fouroversix, an oracle, is not installed")
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("it adds with torch.sum, whose order is that of the processor's vectors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("fouroversix")
        reference = importlib.import_module("fouroversix.quantize.pytorch.reference")

    def quantize(x: Tensor, config: QuantizeConfig) -> tuple[Tensor, Tensor]:
        codes, scales, _ = reference.quantize_to_fp4(
            x,
            scale_rule=package.ScaleRule(FOUROVERSIX_RULES[config.rule]),
            block_scale_2d=config.block == (16, 16),
            use_blackwell_scale_layout=False,
        )
        return codes, scales.view(x.shape[0], -1).contiguous().view(torch.uint8)

    return quantize
