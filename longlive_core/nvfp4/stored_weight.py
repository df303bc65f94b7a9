"""The format of a packed weight in a state dict, read, written and checked."""

from typing import Any

import torch
from jaxtyping import Int32, Shaped
from torch import Tensor

from longlive_core.nvfp4.format import QuantizeConfig, ScaleRule
from longlive_core.nvfp4.tensor import NVFP4Tensor
from longlive_core.tensor_checks import present

FORMAT_VERSION = 1
_RULES = {rule.row.number: rule for rule in ScaleRule}


def read_format(stored: Shaped[Tensor, "..."]) -> tuple[QuantizeConfig, tuple[int, int]]:
    """What ``weight_format`` says: how a weight was quantized, and its shape. Raises ValueError."""
    present("a packed weight's format", stored, why="it is 7 whole numbers.")
    if stored.numel() != 7 or stored.is_floating_point():
        raise ValueError(
            f"a packed weight's format is 7 whole numbers, got {stored.numel()} of {stored.dtype}. "
            f"Take the original file."
        )
    version, rule, bound, *block, rows, cols = stored.tolist()
    if version != FORMAT_VERSION or rule not in _RULES:
        raise ValueError(
            f"a packed weight of format {version} with rule number {rule} is not known here, which "
            f"reads format {FORMAT_VERSION} with rules 0 to {max(_RULES)}. Use the version "
            f"that wrote it, or a later one."
        )
    config = QuantizeConfig(rule=_RULES[rule], bound=bound, block=(block[0], block[1]))
    return config, (rows, cols)


def stored_problem(
    state: Any, prefix: str, config: QuantizeConfig, shape: tuple[int, int]
) -> str | None:
    """What is wrong with the scales of a state dict's weight; None also where some are missing."""
    parts = [state.get(f"{prefix}weight_{part}") for part in ("codes", "scales", "amax")]
    if any(part is None or part.is_meta for part in parts):
        return None
    codes, scales, amax = parts
    try:
        weight = NVFP4Tensor(
            codes=codes,
            block_scales=scales.view(torch.float8_e4m3fn),
            amax=amax.view(torch.float32),
            config=config,
            shape=shape,
        )
    except ValueError:
        return None  # sizes that are not the layer's: torch names them
    problem = weight.scale_problem()
    return None if problem is None else f"{prefix}weight cannot be read: {problem}."


def written_format(config: QuantizeConfig, shape: tuple[int, int]) -> Int32[Tensor, "7"]:
    """The inverse of ``read_format``."""
    values = (
        FORMAT_VERSION,
        config.rule.row.number,
        config.largest_scale,
        *config.block,
        *shape,
    )
    return torch.tensor(values, dtype=torch.int32, device="cpu")
