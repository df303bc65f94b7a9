"""What the device can do at best, measured in the same run: products, a copy, attention alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from longlive_core import float8
from longlive_core.attention import attention
from longlive_recipes.bench.options import Table
from longlive_recipes.bench.preset.models import Preset
from longlive_recipes.bench.timing import median_seconds
from longlive_recipes.planning.sizes import counted, decoder_operations, transformer_operations

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Rates of the device.

    Attributes:
        bf16, fp8: operations a second of a large product.
        attention, attention_high: the same of attention alone over a full window, in each quality.
        copy: bytes read and written a second.
    """

    bf16: float = 1.0
    fp8: float = 1.0
    attention: float = 1.0
    attention_high: float = 1.0
    copy: float = 1.0

    def rows(self) -> Table:
        """As a table."""
        return {
            "product, bf16": {"tflops": self.bf16 / TERA},
            "product, FP8": {"tflops": self.fp8 / TERA},
            "attention alone": {"tflops": self.attention / TERA},
            "attention alone, high": {"tflops": self.attention_high / TERA},
            "copy": {"gigabytes_a_second": self.copy / GIGA},
        }


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations of one pass over a block, and of decoding it."""

    products: float
    attention: float
    decoding: float

    def ideal(self, ceilings: Ceilings, *, fp8: bool, high: bool) -> float:
        """Seconds of a pass whose products and attention run as fast as each does alone."""
        products = self.products / (ceilings.fp8 if fp8 else ceilings.bf16)
        return products + self.attention / (ceilings.attention_high if high else ceilings.attention)


def work_of(preset: Preset, seen: int) -> Work:
    """The operations of a pass that sees ``seen`` blocks, and of decoding a block."""
    products, attended = transformer_operations(counted(preset.name, preset.spec), seen)
    latents = preset.spec.transformer.frames_per_block
    decoding = decoder_operations(preset.spec) * latents
    return Work(products=products, attention=attended, decoding=decoding)


@torch.no_grad()
def measure_ceilings(preset: Preset, device: torch.device, repeats: int) -> Ceilings:
    """Measure the rates."""
    side, dtype = preset.side, torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (_drawn(device, dtype, side, side, seed=seed) for seed in (0, 1))
    low = [float8.quantize(x) for x in (a, b)]
    wan = preset.spec.transformer
    keys = preset.tokens * preset.spec.settings.window
    q = _drawn(device, dtype, 1, preset.tokens, wan.num_heads, wan.head_dim, seed=2)
    k, v = (
        _drawn(device, dtype, 1, keys, wan.num_heads, wan.head_dim, seed=seed) for seed in (3, 4)
    )
    source = torch.empty(preset.copied // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def rate(run: Callable[[], object], amount: float) -> float:
        return amount / median_seconds(run, device, repeats)

    product, attended = 2.0 * side**3, 4.0 * preset.tokens * keys * wan.dim
    return Ceilings(
        bf16=rate(lambda: a @ b.t(), product),
        fp8=rate(lambda: float8.matmul(low[0], low[1], out_dtype=dtype), product),
        attention=rate(lambda: attention(q, k, v), attended),
        attention_high=rate(lambda: attention(q, k, v, quality="high"), attended),
        copy=rate(lambda: target.copy_(source), 2.0 * source.nbytes),
    )


def _drawn(device: torch.device, dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
