"""NVFP4WireCodec: what ranks send each other in four bits, for ``sequence_parallel``."""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, ScaleRule
from longlive_core.nvfp4.quantize import dequantize, quantize
from longlive_core.nvfp4.tensor import NVFP4Tensor

_NOT_FINITE = -128  # the exponent of a row with NaN or infinity


@dataclass(frozen=True, kw_only=True)
class NVFP4WireCodec:
    """Sends packed codes, block scales, and one exponent for each token and head.

    It satisfies ``sequence_parallel.WireCodec`` without importing it. The amax of a row is rounded
    up to a power of two, which block scales make up for: so its scale takes a byte, and what
    arrives does not depend on how tokens and heads are spread over ranks, without asking them. A
    row with NaN or infinity arrives as NaN. It carries no gradient.

    Attributes:
        rule: how block scales are chosen.
        backend: a name of the tables ``QUANTIZE`` and ``DEQUANTIZE``, or "auto".
    """

    rule: ScaleRule = ScaleRule.FOUR_OVER_SIX_MSE
    backend: str = "auto"
    carries_gradients = False

    def nbytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Half a byte a number, one for 16 of them, and one for each row of the last dimension.

        Raises ``ValueError`` unless rows are whole blocks of 16.
        """
        return sum(_sizes(shape))

    def encode(self, message: Float[Tensor, "*rows cols"], wire: UInt8[Tensor, " bytes"]) -> None:
        """Codes, then block scales, then exponents."""
        rows = message.reshape(-1, message.shape[-1])
        exponents = _exponents(rows)
        q = quantize(rows, self._config, amax=_amax(exponents), backend=self.backend)
        parts = (q.codes, q.block_scales, exponents)
        for room, part in zip(wire.split(_sizes(message.shape)), parts, strict=True):
            room.copy_(part.view(torch.uint8).flatten())

    def decode(self, wire: UInt8[Tensor, " bytes"], message: Float[Tensor, "*rows cols"]) -> None:
        """Write what the codes stand for, rounded once to the message's type."""
        cols = message.shape[-1]
        rows = message.numel() // cols
        codes, scales, exponents = wire.split(_sizes(message.shape))
        q = NVFP4Tensor(
            codes=codes.view(rows, cols // 2),
            block_scales=scales.view(rows, cols // BLOCK).view(torch.float8_e4m3fn),
            amax=_amax(exponents.view(torch.int8)),
            config=self._config,
            shape=(rows, cols),
        )
        message.copy_(dequantize(q, message.dtype, backend=self.backend).view(message.shape))

    @property
    def _config(self) -> QuantizeConfig:
        return QuantizeConfig(rule=self.rule)


def _sizes(shape: tuple[int, ...]) -> list[int]:
    """Bytes of codes, of block scales and of exponents."""
    if shape[-1] % BLOCK:
        raise ValueError(
            f"NVFP4WireCodec cannot send heads of {shape[-1]} channels: {BLOCK} neighbouring "
            f"channels share a scale. Use heads of a multiple of {BLOCK}, or Float8WireCodec."
        )
    numbers = prod(shape)
    return [numbers // 2, numbers // BLOCK, prod(shape[:-1])]


def _exponents(rows: Float[Tensor, "rows cols"]) -> Int8[Tensor, " rows"]:
    """The least ``e`` of each row for which all of it is below ``2 ** e``."""
    amax = rows.abs().amax(1).float()
    exponents = torch.frexp(amax).exponent.clamp(-126, 127)
    return torch.where(amax.isfinite(), exponents, _NOT_FINITE).to(torch.int8)


def _amax(exponents: Int8[Tensor, " rows"]) -> Float32[Tensor, " rows"]:
    """The powers of two, from the bits of a float32: exact on every device."""
    powers = ((exponents.int() + 127) << 23).view(torch.float32)
    return powers.masked_fill(exponents == _NOT_FINITE, torch.nan)
