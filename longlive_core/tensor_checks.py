"""Tensors that a caller gave: there, dense and of the right kind, or refused in words.

Nothing here reads a tensor's values, so nothing waits for a device.
"""

from typing import Any

import torch
from torch import Tensor

from longlive_core.checks import shown


def dense(name: str, x: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``x`` is a tensor that has its numbers in memory, one by one.

    Args:
        name: what the caller knows the value by.
        why: what the tensor is for and the way out, as whole sentences; ends the message.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a tensor, got {shown(x)}: {why}")
    if x.layout is not torch.strided:
        kind = str(x.layout).removeprefix("torch.")
        raise ValueError(
            f"{name} is a dense tensor, got one of layout {kind}: zeros are numbers like others "
            f"here. Pass x.to_dense()."
        )
    if x.is_meta:
        raise ValueError(
            f"{name} has numbers, got a tensor of shape {tuple(x.shape)} on 'meta', which has sizes "
            f"alone: nothing can be computed of it. Load it, or make it on a device."
        )
