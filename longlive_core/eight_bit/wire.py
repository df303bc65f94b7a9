"""What arrives from another rank, for codecs of every format."""

import torch
from torch import Tensor

from longlive_core.tensor_checks import present


def check_wire(codec: str, wire: Tensor, fewest: int) -> None:
    """Raise ``ValueError`` unless ``wire`` is rows of at least so many bytes."""
    present(f"what {codec} decodes", wire, why="it is the bytes that encode made.")
    if wire.dtype != torch.uint8 or wire.ndim == 0 or wire.shape[-1] < fewest:
        raise ValueError(
            f"{codec} decodes rows of {fewest} bytes or more in uint8, got {wire.dtype} of shape "
            f"{tuple(wire.shape)}: they are a row's codes and its scale. Pass what encode made."
        )
