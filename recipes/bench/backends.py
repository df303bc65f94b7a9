"""Every backend of attention and quantized products at a preset's sizes: error, speed, why not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longlive_core import float8, nvfp4
from longlive_core.attention import ATTENTION, attention
from longlive_core.backends import BackendUnavailable, Operation, Request
from longlive_core.float8 import BLOCK_MATMUL, ROW_MATMUL
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import Table
from longlive_recipes.bench.preset.models import Preset, preset_of
from longlive_recipes.bench.preset_options import BackendsOptions
from longlive_recipes.bench.self_tests import FAILURES
from longlive_recipes.bench.timing import median_seconds

MOST_ERROR = {"attention": 0.1, "product": 0.2}
"""How far a result may be from the float64 reference, relative to it, to be timed."""

SOME_ROWS, SOME_HEADS = 256, 2
"""What the references compute: the first rows, the first heads."""

SLOW = "compiles for minutes"
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A backend to be tried.

    Attributes:
        name: operation and backend.
        standing: "usable", "usable when named: ..." or why it is not.
        prepare: gives what is timed.
        some: the part of its result that the reference has.
        reference: in float64.
        kind: a key of ``MOST_ERROR``.
        operations: multiplications and additions of a call.
    """

    name: str
    standing: str
    prepare: Callable[[], Callable[[], Tensor]]
    some: Callable[[Tensor], Tensor]
    reference: Callable[[], Tensor]
    kind: str
    operations: float


def measure(told: BackendsOptions, device: torch.device, about: str) -> dict[str, Any]:
    """The record of a preset's backends."""
    preset = preset_of(told.preset, device)
    parts: dict[str, Table] = {
        "Attention over a full window": _table(_attentions(preset, device), told, device),
        "Products, feed-forward's first linear": _table(_products(preset, device), told, device),
    }
    return {
        "about": about,
        "parts": parts,
        "checked": f"errors against float64, at most {MOST_ERROR['attention']:g} for attention and "
        f"{MOST_ERROR['product']:g} for a product, rounding of its operands in it",
    }


@torch.no_grad()
def _table(trials: Iterator[Trial], told: BackendsOptions, device: torch.device) -> Table:
    return {trial.name: _row(trial, told, device) for trial in trials}


def _row(trial: Trial, told: BackendsOptions, device: torch.device) -> dict[str, float | str]:
    if not trial.standing.startswith("usable"):
        return {"state": trial.standing}
    if not told.slow and SLOW.split()[0] in trial.standing:
        return {"state": f"{trial.standing}; --set slow=true tries it"}
    try:
        run = trial.prepare()
        result = trial.some(run()).double()
        reference = trial.reference()
        error = float((result - reference).norm() / reference.norm())
        require(error <= MOST_ERROR[trial.kind], f"{error:.3g} from float64")
        seconds = median_seconds(run, device, told.repeats)
    except (*FAILURES, BackendUnavailable, AssertionError) as problem:
        said = " ".join(str(problem).split()) or type(problem).__name__
        return {"state": f"not timed: {said[:160]}"}
    return {
        "state": "ran",
        "error": error,
        "milliseconds": 1e3 * seconds,
        "tflops": trial.operations / seconds / TERA,
    }


def _attentions(preset: Preset, device: torch.device) -> Iterator[Trial]:
    wan, tokens = preset.spec.transformer, preset.tokens
    keys = tokens * preset.spec.settings.window
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q = _drawn(device, dtype, 1, tokens, wan.num_heads, wan.head_dim, seed=1)
    k, v = (_drawn(device, dtype, 1, keys, wan.num_heads, wan.head_dim, seed=s) for s in (2, 3))

    def some(out: Tensor) -> Tensor:
        return out[0, :SOME_ROWS, :SOME_HEADS].transpose(0, 1)

    def reference() -> Tensor:
        few, shown, given = (
            x[0, :, :SOME_HEADS].transpose(0, 1).double() for x in (q[:, :SOME_ROWS], k, v)
        )
        scores = few @ shown.transpose(1, 2) * wan.head_dim**-0.5
        return scores.softmax(-1) @ given

    request = Request(device=device, dtype=dtype, head_dim=wan.head_dim)
    for backend, standing in ATTENTION.explain(request).items():
        yield Trial(
            name=backend,
            standing=standing,
            prepare=partial(_attend, q, k, v, backend),
            some=some,
            reference=reference,
            kind="attention",
            operations=4.0 * tokens * keys * wan.dim,
        )


def _attend(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Callable[[], Tensor]:
    return lambda: attention(q, k, v, backend=backend)


def _products(preset: Preset, device: torch.device) -> Iterator[Trial]:
    wan, tokens = preset.spec.transformer, preset.tokens
    dtype = torch.bfloat16
    x = _drawn(device, dtype, tokens, wan.dim, seed=1)
    weight = _drawn(device, dtype, wan.ffn_dim, wan.dim, seed=2)

    def trial(name: str, standing: str, prepare: Callable[[], Callable[[], Tensor]]) -> Trial:
        return Trial(
            name=name,
            standing=standing,
            prepare=prepare,
            some=lambda y: y[:SOME_ROWS],
            reference=lambda: x[:SOME_ROWS].double() @ weight.double().t(),
            kind="product",
            operations=2.0 * tokens * wan.dim * wan.ffn_dim,
        )

    yield trial("bf16, torch", "usable", lambda: partial(torch.mm, x, weight.t()))
    asked = Request(device=device, dtype=dtype)
    for operation, way in ((ROW_MATMUL, _eight_bit_rows), (BLOCK_MATMUL, _eight_bit_blocks)):
        for backend, standing in operation.explain(asked).items():
            make = partial(way, x, weight, backend)
            yield trial(f"{operation.name}, {backend}", standing, make)
    packed = nvfp4.quantize(weight)
    activations = nvfp4.quantize(x)
    pairs: tuple[tuple[Operation, Any], ...] = (
        (nvfp4.WEIGHT_MATMUL, x),
        (nvfp4.MATMUL, activations),
    )
    for operation, left in pairs:
        wanted = nvfp4.matmul_request(left, packed, dtype)
        for backend, standing in operation.explain(wanted).items():
            make = partial(_four_bits, left, packed, dtype, operation, backend)
            yield trial(f"{operation.name}, {backend}", standing, make)


def _eight_bit_rows(x: Tensor, weight: Tensor, backend: str) -> Callable[[], Tensor]:
    a, b = float8.quantize(x), float8.quantize(weight)
    return lambda: float8.matmul(a, b, out_dtype=x.dtype, backend=backend)


def _eight_bit_blocks(x: Tensor, weight: Tensor, backend: str) -> Callable[[], Tensor]:
    a = float8.quantize(x, float8.Scaling.ROW_BLOCK)
    b = float8.quantize(weight, float8.Scaling.SQUARE)
    return lambda: float8.matmul(a, b, out_dtype=x.dtype, backend=backend)


def _four_bits(
    left: Any, packed: nvfp4.NVFP4Tensor, dtype: torch.dtype, operation: Operation, backend: str
) -> Callable[[], Tensor]:
    """A weight is prepared once for many products; two packed operands are just multiplied."""
    if operation is nvfp4.WEIGHT_MATMUL:
        multiply = operation.named(backend).run(packed)
        return lambda: multiply(left, None)
    return lambda: nvfp4.matmul(left, packed, dtype=dtype, backend=backend)


def _drawn(device: torch.device, dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)
