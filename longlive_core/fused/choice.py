"""How the fused operations choose a backend, and the conditions that they share."""

from collections.abc import Callable

import torch
from torch import Tensor

from longlive_core.backends import (
    Condition,
    Operation,
    Request,
    all_of,
    forward_only,
    needs_dtype,
    needs_triton,
)

WIDEST = 16384
"""The most numbers of a row that a kernel holds at once."""

needs_fused: Condition = all_of(forward_only, needs_dtype(torch.bfloat16), needs_triton)
"""The condition of a fused kernel: inference in bfloat16, on a GPU."""

needs_written_out: Condition = all_of(forward_only, needs_dtype(torch.bfloat16))
"""The condition of the plain PyTorch whose roundings and sums are those of the kernels."""


def slower(request: Request) -> str | None:
    """Why "auto" does not take what is written out."""
    return "it is the meaning of the kernel, written out, and slower than torch's own operations"


def asked(
    operation: Operation, backend: str, *tensors: Tensor | None
) -> tuple[torch.device, torch.dtype, bool, str]:
    """The device, type, need of a gradient and backend of a call; the first tensor is the input.

    A compiler fuses by itself, autocast has types of its own, and rows may be wider than a kernel
    holds: these get torch's operations.
    """
    x = tensors[0]
    assert x is not None
    compiled, wide = torch.compiler.is_compiling(), x.shape[-1] > WIDEST
    if backend == "auto" and (compiled or wide or torch.is_autocast_enabled(x.device.type)):
        backend = operation.backends[-1].name
    wants = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return x.device, x.dtype, wants, backend


def select(
    operation: Operation,
    device: torch.device,
    dtype: torch.dtype,
    needs_grad: bool,
    backend: str,
    quality: str = "lossless",
) -> Callable:
    """The implementation that a call takes."""
    request = Request(device=device, dtype=dtype, needs_grad=needs_grad, quality=quality)
    return operation.select(request, backend)
