"""NVFP4WireCodec: what ranks send each other in four bits, for ``sequence_parallel``."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from longlive_core.checks import text
from longlive_core.eight_bit.wire import check_wire
from longlive_core.nvfp4.format import BLOCK, QuantizeConfig, ScaleRule, find_rule
from longlive_core.nvfp4.quantize import check_floats, dequantize, quantize
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", find_rule(self.rule))
        text("NVFP4WireCodec.backend", self.backend, why="It names what rounds, or 'auto'.")

    def encode(self, message: Float[Tensor, "..."]) -> UInt8[Tensor, "*rows bytes"]:
        """Of each row its codes, then block scales, then the exponent.

        Raises:
            ValueError: rows are not whole blocks of 16.
        """
        check_floats(message)
        cols = message.shape[-1]
        widths = _widths(cols)
        rows = message.reshape(-1, cols)
        exponents = _exponents(rows)
        q = quantize(rows, self._config, amax=_amax(exponents), backend=self.backend)
        parts = (q.codes, q.block_scales.view(torch.uint8), exponents[:, None].view(torch.uint8))
        return torch.cat(parts, 1).view(*message.shape[:-1], sum(widths))

    def decode(
        self, wire: UInt8[Tensor, "*rows bytes"], dtype: torch.dtype
    ) -> Float[Tensor, "*rows cols"]:
        """What the codes stand for, rounded once to ``dtype``."""
        check_wire("NVFP4WireCodec", wire, 1)
        cols = (wire.shape[-1] - 1) * BLOCK // (BLOCK // 2 + 1)
        codes, scales, exponents = wire.flatten(0, -2).split(_widths(cols), 1)
        q = NVFP4Tensor(
            codes=codes.contiguous(),
            block_scales=scales.contiguous().view(torch.float8_e4m3fn),
            amax=_amax(exponents.flatten().view(torch.int8)),
            config=self._config,
            shape=(len(codes), cols),
        )
        return dequantize(q, dtype, backend=self.backend).view(*wire.shape[:-1], cols)

    @property
    def _config(self) -> QuantizeConfig:
        return QuantizeConfig(rule=self.rule)


def _widths(cols: int) -> list[int]:
    """Bytes of a row's codes, of its block scales and of its exponent."""
    if cols % BLOCK or cols == 0:
        raise ValueError(
            f"NVFP4WireCodec cannot send heads of {cols} channels: {BLOCK} neighboring "
            f"channels share a scale. Use heads of a multiple of {BLOCK}, or Float8WireCodec."
        )
    return [cols // 2, cols // BLOCK, 1]


def _exponents(rows: Float[Tensor, "rows cols"]) -> Int8[Tensor, " rows"]:
    """The least ``e`` of each row for which all of it is below ``2 ** e``."""
    amax = rows.abs().amax(1).float()
    exponents = torch.frexp(amax).exponent.clamp(-126, 127)
    return torch.where(amax.isfinite(), exponents, _NOT_FINITE).to(torch.int8)


def _amax(exponents: Int8[Tensor, " rows"]) -> Float32[Tensor, " rows"]:
    """The powers of two, from the bits of a float32: exact on every device."""
    powers = ((exponents.int() + 127) << 23).view(torch.float32)
    return powers.masked_fill(exponents == _NOT_FINITE, torch.nan)
