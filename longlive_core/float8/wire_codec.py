"""Float8WireCodec: what ranks send each other in eight bits, for ``sequence_parallel``."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longlive_core.eight_bit.wire import check_wire
from longlive_core.float8.tensor import Float8Tensor, Scaling, dequantize, quantize
from longlive_core.tensor_checks import dense

_SCALE = torch.float32.itemsize


@dataclass(frozen=True)
class Float8WireCodec:
    """Sends E4M3 codes and one scale for each token and head, as ``float8.quantize`` rounds rows.

    It satisfies ``sequence_parallel.WireCodec`` without importing it. What arrives does not depend
    on how tokens and heads are spread over ranks. It carries no gradient.
    """

    carries_gradients = False

    def encode(self, message: Float[Tensor, "..."]) -> UInt8[Tensor, "*rows bytes"]:
        """Of each row its codes, then its scale."""
        dense("what Float8WireCodec sends", message, why="it is rows of numbers.")
        if message.ndim == 0 or message.shape[-1] == 0:
            raise ValueError(
                "Float8WireCodec sends rows of numbers, got a tensor of shape "
                f"{tuple(message.shape)}: a row has one or more. Give a single one a dimension, "
                "message.reshape(1)."
            )
        cols = message.shape[-1]
        q = quantize(message.reshape(-1, cols))
        parts = (q.codes.view(torch.uint8), q.scales.view(torch.uint8))
        return torch.cat(parts, 1).view(*message.shape[:-1], cols + _SCALE)

    def decode(
        self, wire: UInt8[Tensor, "*rows bytes"], dtype: torch.dtype
    ) -> Float[Tensor, "*rows cols"]:
        """What the codes stand for, rounded once to ``dtype``."""
        check_wire("Float8WireCodec", wire, _SCALE + 1)
        cols = wire.shape[-1] - _SCALE
        codes, scales = wire.flatten(0, -2).split([cols, _SCALE], 1)
        scales = scales.clone(memory_format=torch.contiguous_format)  # a copy is aligned
        q = Float8Tensor(
            codes=codes.contiguous().view(torch.float8_e4m3fn),
            scales=scales.view(torch.float32),
            scaling=Scaling.ROW,
        )
        return dequantize(q, dtype).view(*wire.shape[:-1], cols)
