"""Float8WireCodec: what ranks send each other in eight bits, for ``sequence_parallel``."""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longlive_core.float8.tensor import Float8Tensor, Scaling, dequantize, quantize

_SCALE = torch.float32.itemsize


@dataclass(frozen=True)
class Float8WireCodec:
    """Sends E4M3 codes and one scale for each token and head, as ``float8.quantize`` rounds rows.

    It satisfies ``sequence_parallel.WireCodec`` without importing it. What arrives does not depend
    on how tokens and heads are spread over ranks. It carries no gradient.
    """

    carries_gradients = False

    def nbytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """A byte a number, and four for each row of the last dimension."""
        return prod(shape) + prod(shape[:-1]) * _SCALE

    def encode(self, message: Float[Tensor, "*rows cols"], wire: UInt8[Tensor, " bytes"]) -> None:
        """Codes, then scales."""
        q = quantize(message.reshape(-1, message.shape[-1]))
        codes, scales = wire.split([q.codes.nbytes, q.scales.nbytes])
        codes.copy_(q.codes.view(torch.uint8).flatten())
        scales.copy_(q.scales.view(torch.uint8).flatten())

    def decode(self, wire: UInt8[Tensor, " bytes"], message: Float[Tensor, "*rows cols"]) -> None:
        """Write what the codes stand for, rounded once to the message's type."""
        cols = message.shape[-1]
        rows = message.numel() // cols
        codes, scales = wire.split([rows * cols, rows * _SCALE])
        q = Float8Tensor(
            codes=codes.view(rows, cols).view(torch.float8_e4m3fn),
            scales=scales.clone().view(torch.float32).view(rows, 1),  # a copy is aligned
            scaling=Scaling.ROW,
        )
        message.copy_(dequantize(q, message.dtype).view(message.shape))
