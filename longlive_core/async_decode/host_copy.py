"""Copies frames from a GPU to the CPU without waiting."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from longlive_core.tensor_checks import present


def start_host_copy(frames: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Start copying to pinned memory on the current stream, without waiting for the copy.

    The result may be read once the stream has finished the copy; the lanes wait for it. Pinned
    blocks are reused by torch's own host allocator once their copies have ended. A tensor that is
    on the CPU already is returned as it is.
    """
    present("what is copied to the CPU", frames, why="it is the frames of a block.")
    if frames.device.type != "cuda":
        return frames.cpu()
    host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
    return host.copy_(frames, non_blocking=True)
