"""Tensors, types, devices and models that a caller gave: of the right kind, or refused in words.

Nothing here reads a tensor's values, so nothing waits for a device.
"""

from typing import Any

import torch
from torch import Tensor, nn

from longlive_core.checks import instance, shown


def dense(name: str, x: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``x`` is a tensor that is not sparse.

    Args:
        name: what the caller knows the value by.
        why: what the tensor is for and the way out, as whole sentences; ends the message.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} is a tensor, got {shown(x)}: {why}")
    if torch.compiler.is_compiling():  # a layout may not be asked for there
        return
    if x.layout is not torch.strided:
        kind = str(x.layout).removeprefix("torch.")
        raise ValueError(
            f"{name} is a dense tensor, got one of layout {kind}: zeros are numbers like others "
            f"here. Pass x.to_dense()."
        )


def present(name: str, x: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``x`` is a tensor that is not sparse and has its numbers."""
    dense(name, x, why=why)
    if not torch.compiler.is_compiling() and x.is_meta:
        raise ValueError(
            f"{name} has numbers, got a tensor of shape {tuple(x.shape)} on 'meta', which has "
            f"sizes alone: nothing can be kept of it. Load it, or make it on a device."
        )


def together(what: str, *xs: Tensor) -> None:
    """Raise ``ValueError`` unless these tensors are on one device."""
    if len({x.device for x in xs}) > 1:
        raise ValueError(
            f"{what} are on one device, got {' and '.join(str(x.device) for x in xs)}: nothing is "
            f"moved in silence. Move them first."
        )


def float_type(name: str, dtype: Any, *, why: str) -> None:
    """Raise ``ValueError`` unless ``dtype`` is a floating type of torch's."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{name} is a float type, got {shown(dtype)}: {why}")


def place(name: str, device: Any) -> torch.device:
    """The device that is meant. Raises ``ValueError`` for none, and for a GPU that is not there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} is no device, {shown(device)}: write 'cpu', 'cuda' or 'cuda:1', say."
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{name} is {str(found)!r}, a GPU, and this torch ({torch.__version__}) sees none: use "
            f"'cpu', or install a CUDA build of torch."
        )
    return found


def check_model(model: object) -> None:
    """Raise ``ValueError`` for what is no module."""
    instance("the model", model, nn.Module, why="its linears are looked for. Pass a torch module.")
