"""Int8PageCodec: pages in eight-bit integers, for cards without FP8."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from longlive_core.pages import EightBitPageCodec

LARGEST = 127.0


@dataclass(frozen=True, kw_only=True)
class Int8PageCodec(EightBitPageCodec):
    """Keeps pages in signed bytes from -127 to 127: steps of equal size, and no zero point."""

    name: ClassVar[str] = "int8"
    code_dtype: ClassVar[torch.dtype] = torch.int8

    def encode(
        self, rows: Float[Tensor, "rows head_dim"]
    ) -> tuple[Int8[Tensor, "rows head_dim"], Float32[Tensor, "rows 1"]]:
        """Codes and scales of rows: the nearest step, a step being a 127th of the largest."""
        wide = rows.float()
        largest = wide.abs().amax(1, keepdim=True)
        scales = (largest * (1.0 / LARGEST)).clamp_min(torch.finfo(torch.float32).tiny)
        steps = (wide / scales).round().clamp(-LARGEST, LARGEST)
        return steps.nan_to_num(nan=0.0).to(torch.int8), scales  # a scale of NaN says it all
