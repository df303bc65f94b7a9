"""What one linear of a block takes with its weight in bfloat16, eight bits and four bits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from longlive_core.float8 import Float8Linear
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4Linear,
    QuantizeConfig,
    ScaleRule,
    linear_receipts,
)
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.bench.timing import median_seconds

W4A4 = LinearConfig(activation=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))
MAX_ERROR = {"fp8": 0.06, "w4a16": 0.11, "w4a4": 0.16}
"""Most that a product may be off the plain one, relative to it, by how its layer begins."""


@torch.no_grad()
def check_linear(device: torch.device, options: BenchOptions) -> str:
    """Products are near the plain one; those of one packed weight are near each other."""
    x = tokens(device, options, options.page_tokens)
    products = {name: layer(x).float() for name, layer in layers(device, options).items()}
    plain = products.pop("plain")
    for name, product in products.items():
        off = float((product - plain).norm() / plain.norm())
        require(off <= MAX_ERROR[name.split()[0]], f"{name}: {off:.3g} of the plain product off")
    four_bits = [product for name, product in products.items() if name.startswith("w4a16")]
    for product in four_bits[1:]:
        torch.testing.assert_close(product, four_bits[0], rtol=2e-2, atol=2e-2)
    return "every product near the plain one, those of one packed weight nearer to each other"


@torch.no_grad()
def measure_linear(device: torch.device, options: BenchOptions) -> Rows:
    """A page's tokens, a sixteenth of them, and one row: many, some, and a vector.

    What Python takes to launch a product is in ``milliseconds_called`` alone.
    """
    made = layers(device, options)
    rows: Rows = {}
    for count in (options.page_tokens, -(-options.page_tokens // 16), 1):
        x = tokens(device, options, count)
        plain = 0.0
        for name, layer in made.items():

            def run(layer: Callable[[Tensor], Tensor] = layer, x: Tensor = x) -> Tensor:
                return layer(x)

            seconds = median_seconds(run, device, options.repeats, captured=True)
            plain = plain or seconds
            rows[f"{count} {'rows' if count > 1 else 'row'}, {name}"] = {
                "milliseconds": seconds * 1e3,
                "milliseconds_called": median_seconds(run, device, options.repeats) * 1e3,
                "times_the_plain_one": seconds / plain,
            }
    return rows


def linear_backends(device: torch.device, options: BenchOptions) -> list[str]:
    """What multiplies, and why nothing else does."""
    shape = _width(options), _width(options)
    return [
        str(receipt)
        for config in (LinearConfig(), W4A4)
        for receipt in linear_receipts(shape, config, device=device, dtype=torch.bfloat16)
    ]


def layers(device: torch.device, options: BenchOptions) -> dict[str, Callable[[Tensor], Tensor]]:
    """One weight in every form that this device multiplies by; a plain linear first."""
    torch.manual_seed(0)
    linear = nn.Linear(_width(options), _width(options), dtype=torch.float32).to(
        device, torch.bfloat16
    )
    made: dict[str, nn.Module] = {"plain": linear, "fp8": Float8Linear.from_linear(linear)}
    shape = linear.out_features, linear.in_features
    product, _ = linear_receipts(shape, LinearConfig(), device=device, dtype=torch.bfloat16)
    for backend, standing in product.reasons.items():
        if standing.startswith("usable") and backend != "reference":
            layer = NVFP4Linear.from_linear(linear, LinearConfig(backend=backend))
            layer.prepare()
            made[f"w4a16 {backend}"] = layer
    made["w4a4"] = NVFP4Linear.from_linear(linear, W4A4)
    return dict(made)


def tokens(device: torch.device, options: BenchOptions, count: int) -> Tensor:
    """Gaussian activations."""
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(count, _width(options), generator=generator, device=device, dtype=torch.float32)
    return x.bfloat16()


def _width(options: BenchOptions) -> int:
    return options.heads * options.head_dim
