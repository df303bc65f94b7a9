"""Compiling the forward pass of a model that trains."""

from collections.abc import Callable
from typing import Any

import torch


def maybe_compile(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """``function``, compiled if ``wanted``.

    Every shape is compiled by itself. Torch 2.11's analysis of tilings fails an assertion on
    broadcasts that these models have.
    """
    if not wanted:
        return function
    options: dict[str, Any] = {"triton.coalesce_tiling_analysis": False}
    return torch.compile(function, dynamic=False, options=options)
