"""Numbers of the host as a tensor on a device, without waiting for the device."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor


def numbers_on(
    device: torch.device, numbers: Sequence[float] | Sequence[int], dtype: torch.dtype
) -> Shaped[Tensor, " numbers"]:
    """The numbers as a tensor of ``dtype``; on a GPU they are copied in the order of its stream.

    ``torch.tensor(..., device=...)`` waits until the GPU has done all that came before. From pinned
    memory, which is kept until it was read, nobody waits.
    """
    here = torch.tensor(numbers, dtype=dtype, device="cpu")
    if device.type != "cuda":
        return here.to(device)
    return here.pin_memory().to(device, non_blocking=True)
