"""Int8PageCodec: pages in eight-bit integers, for cards without FP8."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from longlive_core.eight_bit.page_codec import EightBitPageCodec
from longlive_core.eight_bit.rowwise import encode_rows


@dataclass(frozen=True, kw_only=True)
class Int8PageCodec(EightBitPageCodec):
    """Keeps pages in signed bytes from -127 to 127: steps of equal size, and no zero point."""

    name: ClassVar[str] = "int8"
    code_dtype: ClassVar[torch.dtype] = torch.int8

    def encode(
        self, rows: Float[Tensor, "rows head_dim"]
    ) -> tuple[Int8[Tensor, "rows head_dim"], Float32[Tensor, "rows 1"]]:
        """Codes and scales of rows: the nearest step, a step being a 127th of the largest."""
        return encode_rows(rows, torch.int8)
