"""How fast matrices become NVFP4 and numbers again, beside how fast the device copies memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from longlive_core import nvfp4
from longlive_core.backends import Request
from longlive_core.nvfp4 import (
    DEQUANTIZE,
    QUANTIZE,
    QUANTIZE_BOTH,
    NVFP4Tensor,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    quantize_both,
    tensor_amax,
)
from longlive_core.testing import assert_bitwise_equal
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.bench.timing import median_seconds

RULES = (ScaleRule.AMAX_6, ScaleRule.FOUR_OVER_SIX_MSE)
CHECKED_ROWS = 256


@torch.no_grad()
def check_nvfp4(device: torch.device, options: BenchOptions) -> str:
    """What is timed gives the reference's bits."""
    x = matrix(device, options)[:CHECKED_ROWS]
    for rule in RULES:
        config = QuantizeConfig(rule=rule)
        got, want = (
            nvfp4.quantize(x, config, backend=backend) for backend in ("auto", "reference")
        )
        pairs = (quantize_both(x, config, backend=backend) for backend in ("auto", "reference"))
        for one, other in ((got, want), *zip(*pairs, strict=True)):
            for name, tensor in one.tensors().items():
                assert_bitwise_equal(tensor, other.tensors()[name], f"{rule} {name}")
        values = dequantize(got, x.dtype), dequantize(got, x.dtype, backend="reference")
        assert_bitwise_equal(values[0], values[1], f"{rule} decoded")
    return f"the bits of the plain-PyTorch reference on {len(x)} rows, by {' and '.join(RULES)}"


@torch.no_grad()
def measure_nvfp4(device: torch.device, options: BenchOptions) -> Rows:
    """Each operation on one bfloat16 matrix; amax is given to all but its own row.

    What Python takes to launch an operation is in ``milliseconds_called`` alone.
    """
    x = matrix(device, options)
    amax, target = tensor_amax(x), torch.empty_like(x)
    cases: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2 * x.nbytes, lambda: target.copy_(x)),
        "amax": (x.nbytes, lambda: tensor_amax(x)),
    }
    for rule in RULES:
        config = QuantizeConfig(rule=rule)
        q = nvfp4.quantize(x, config, amax=amax)

        def there(config: QuantizeConfig = config) -> object:
            return nvfp4.quantize(x, config, amax=amax)

        def both_ways(config: QuantizeConfig = config) -> object:
            return quantize_both(x, config, amax=amax)

        def back(q: NVFP4Tensor = q) -> object:
            return dequantize(q, out=target)

        cases[f"quantize, {rule}"] = x.nbytes + q.bytes, there
        cases[f"dequantize, {rule}"] = x.nbytes + q.bytes, back
        cases[f"both ways in one pass, {rule}"] = x.nbytes + 2 * q.bytes, both_ways
    rows: Rows = {}
    for case, (moved, run) in cases.items():
        seconds = median_seconds(run, device, options.repeats, captured=True)
        speed = moved / seconds / 1e9
        copied = rows["copy"]["gigabytes_per_second"] if rows else speed
        rows[case] = {
            "mib_moved": moved / 2**20,
            "milliseconds": seconds * 1e3,
            "milliseconds_called": median_seconds(run, device, options.repeats) * 1e3,
            "gigabytes_per_second": speed,
            "share_of_copy": speed / copied,
        }
    return rows


def nvfp4_backends(device: torch.device, options: BenchOptions) -> list[str]:
    """What quantizes and decodes on this device."""
    request = Request(device=device, dtype=torch.bfloat16)
    return [str(one.receipt(request)) for one in (QUANTIZE, QUANTIZE_BOTH, DEQUANTIZE)]


def matrix(device: torch.device, options: BenchOptions) -> Tensor:
    """The keys that one layer sees, as a matrix with a row a token."""
    shape = options.pages * options.page_tokens, options.heads * options.head_dim
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).bfloat16()
