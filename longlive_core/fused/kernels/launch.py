"""How rows are spread over programs and threads."""

import torch
import triton  # noqa: TID253 - its home
from torch import Tensor

from longlive_core.fused.choice import WIDEST

VALUES_PER_PROGRAM = 4096
VALUES_PER_WARP = 512


def tile(dim: int) -> tuple[int, int, int]:
    """The numbers of a row with padding, rows of a program, and its warps."""
    width = triton.next_power_of_2(dim)
    if width > WIDEST:
        raise ValueError(
            f"a fused kernel holds rows of at most {WIDEST} numbers, got {dim}: statistics are of "
            f"whole rows. Name the backend 'torch'."
        )
    rows = max(1, VALUES_PER_PROGRAM // width)
    return width, rows, min(16, max(1, rows * width // VALUES_PER_WARP))


def converts(x: Tensor) -> bool:
    """Whether the device of ``x`` has an instruction that rounds to E4M3."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9)
