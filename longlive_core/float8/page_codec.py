"""Float8PageCodec: pages of keys and values in eight bits, for ``longlive_core.kv_cache``."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float8e4m3fn, Float32
from torch import Tensor

from longlive_core.eight_bit.page_codec import EightBitPageCodec
from longlive_core.float8.tensor import quantize


@dataclass(frozen=True, kw_only=True)
class Float8PageCodec(EightBitPageCodec):
    """Keeps pages in E4M3, rounded as ``float8.quantize`` rounds rows."""

    name: ClassVar[str] = "fp8"
    code_dtype: ClassVar[torch.dtype] = torch.float8_e4m3fn

    def encode(
        self, rows: Float[Tensor, "rows head_dim"]
    ) -> tuple[Float8e4m3fn[Tensor, "rows head_dim"], Float32[Tensor, "rows 1"]]:
        """Codes and scales of rows: ``scale`` is the row's largest magnitude over 448."""
        q = quantize(rows)
        return q.codes, q.scales
