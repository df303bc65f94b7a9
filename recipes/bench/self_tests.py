"""A second's test of each backend that can run here: its result against the reference's.

Sizes are small, inputs the same for all backends of an operation. What rounds must give the
reference's very bits; products and attention must be near it, by the norm of the difference.

Command:  longlive doctor
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longlive_core import float8, nvfp4
from longlive_core.attention import (
    ATTENTION,
    ATTENTION_OVER_CODES,
    MASKED_ATTENTION,
    attention,
    attention_over_codes,
    masked_attention,
)
from longlive_core.backends import BackendUnavailable, Operation, Request
from longlive_core.eight_bit import (
    DECODE_BYTE_PAGES,
    ENCODE_COLUMNS,
    ENCODE_HEADS,
    ENCODE_ROWS,
    ENCODE_WINDOW,
    EncodedHeads,
    EncodedRows,
    Int8PageCodec,
    encode_columns,
    encode_heads,
    encode_rows,
    encode_window,
)
from longlive_core.float8 import BLOCK_MATMUL, ROW_MATMUL
from longlive_core.fused import GELU, NORM, ROTATE, Modulation, add_norm, gelu, rotate_heads
from longlive_core.kv_cache import PageCodec
from longlive_core.noise import gaussian

Compute = Callable[[torch.device, torch.dtype, int, str], Tensor]

PAGE = (1, 64, 2, 64)
SIDE = 128

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, ImportError, OSError, LookupError)
"""What a kernel that does not work raises: of its compiler, its loader, its launch."""


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """How an operation is tried.

    Attributes:
        operation: its table of backends.
        near: the largest error that is right, relative to the reference's norm; 0 for the same
            bits.
        high: the same for backends of the quality "high".
        compute: its result, by (device, dtype, head size, backend).
        request: what its backends are asked, by (device, dtype, head size); None for the usual.
    """

    operation: Operation
    near: float
    compute: Compute
    request: Callable[[torch.device, torch.dtype, int], Request] | None = None
    high: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a backend's test found.

    Attributes:
        operation, backend: their names.
        right: whether it ran and came near enough.
        error: its distance from the reference, relative to its norm; None if it did not run.
        milliseconds: of its second run; None if it did not run.
        problem: what it raised; None if it ran.
    """

    operation: str
    backend: str
    right: bool
    error: float | None = None
    milliseconds: float | None = None
    problem: str | None = None


def run(
    device: torch.device, dtype: torch.dtype, *, head_dim: int = 128, named: bool = False
) -> Iterator[Finding]:
    """Try every backend that "auto" may take on a device, operation by operation.

    Args:
        device, dtype: where, and of what type the operands are.
        head_dim: the size of an attention head.
        named: try those too that run only when they are named, some of which compile for minutes.
    """
    for test in TESTS:
        if test.request is None:
            request = Request(device=device, dtype=dtype, head_dim=head_dim)
        else:
            request = test.request(device, dtype, head_dim)
        reference: Tensor | None = None
        standing = test.operation.explain(request)
        for name in reversed(standing):  # the reference is the last of its table
            if standing[name] != "usable" and not (named and standing[name].startswith("usable")):
                continue
            finding, result = _try(test, device, dtype, head_dim, name, reference)
            reference = result if reference is None else reference
            yield finding


def _try(
    test: SelfTest,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    name: str,
    reference: Tensor | None,
) -> tuple[Finding, Tensor | None]:
    """What a backend's test found, and its result."""
    operation = test.operation.name
    try:
        with torch.no_grad():
            result = test.compute(device, dtype, head_dim, name).float()
            began = time.perf_counter()
            test.compute(device, dtype, head_dim, name)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took = 1000 * (time.perf_counter() - began)
    except (*FAILURES, BackendUnavailable) as problem:
        said = " ".join(str(problem).split()) or type(problem).__name__
        return Finding(operation=operation, backend=name, right=False, problem=said), None
    error = 0.0 if reference is None else distance(result, reference)
    high = test.operation.named(name).quality == "high"
    return (
        Finding(
            operation=operation,
            backend=name,
            right=bool(error <= (test.high if high else test.near)),
            error=error,
            milliseconds=took,
        ),
        result,
    )


def distance(result: Tensor, reference: Tensor) -> float:
    """The norm of the difference over that of the reference; infinite for NaN and other shapes."""
    if result.shape != reference.shape or not bool(result.isfinite().all()):
        return float("inf")
    return float((result - reference).norm() / reference.norm().clamp_min(1e-12))


def _drawn(device: torch.device, dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return gaussian(seed, [0], shape)[0].to(device, dtype)


def _attention(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    q, k, v = (_drawn(device, dtype, 1, SIDE, 2, head_dim, seed=seed) for seed in range(3))
    return attention(q, k, v, backend=backend)


def _over_codes(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    q, k, v = (_drawn(device, dtype, 1, SIDE, 2, head_dim, seed=seed) for seed in range(3))
    keys, values = (EncodedHeads(*encode_heads(x, backend="reference")) for x in (k, v))
    return attention_over_codes(q, keys, values, backend=backend)


def _masked(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    q, k, v = (_drawn(device, dtype, 1, SIDE, 2, head_dim, seed=seed) for seed in range(3))
    places = torch.arange(SIDE, dtype=torch.int64, device=device)
    seen = places[:, None] >= places[None, :]
    return masked_attention(q, k, v, seen, backend=backend)


def _quantize(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    packed = nvfp4.quantize(_drawn(device, dtype, SIDE, SIDE), backend=backend)
    return torch.cat([packed.codes.flatten(), packed.block_scales.view(torch.uint8).flatten()])


def _quantize_both(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    pair = nvfp4.quantize_both(_drawn(device, dtype, SIDE, SIDE), backend=backend)
    return torch.cat([packed.codes.flatten() for packed in pair])


def _dequantize(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    packed = nvfp4.quantize(_drawn(device, dtype, SIDE, SIDE), backend="reference")
    return nvfp4.dequantize(packed, dtype, backend=backend)


def _packed(device: torch.device, dtype: torch.dtype, seed: int) -> nvfp4.NVFP4Tensor:
    return nvfp4.quantize(_drawn(device, dtype, SIDE, SIDE, seed=seed), backend="reference")


def _four_by_four(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    a, b = (_packed(device, dtype, seed) for seed in (0, 1))
    return nvfp4.matmul(a, b, dtype=dtype, backend=backend)


def _asks_four_by_four(device: torch.device, dtype: torch.dtype, _: int) -> Request:
    a, b = (_packed(device, dtype, seed) for seed in (0, 1))
    return nvfp4.matmul_request(a, b, dtype)


def _weight_only(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    x = _drawn(device, dtype, SIDE, SIDE)
    return nvfp4.matmul(x, _packed(device, dtype, 1), backend=backend)


def _asks_weight_only(device: torch.device, dtype: torch.dtype, _: int) -> Request:
    x = _drawn(device, dtype, SIDE, SIDE)
    return nvfp4.matmul_request(x, _packed(device, dtype, 1), dtype)


def _eight_bit_rows(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    a, b = (float8.quantize(_drawn(device, dtype, SIDE, SIDE, seed=seed)) for seed in (0, 1))
    return float8.matmul(a, b, out_dtype=dtype, backend=backend)


def _eight_bit_blocks(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    a = float8.quantize(_drawn(device, dtype, SIDE, SIDE), float8.Scaling.ROW_BLOCK)
    b = float8.quantize(_drawn(device, dtype, SIDE, SIDE, seed=1), float8.Scaling.SQUARE)
    return float8.matmul(a, b, out_dtype=dtype, backend=backend)


def _encoded_rows(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    codes, scales = encode_rows(
        _drawn(device, dtype, SIDE, SIDE), torch.float8_e4m3fn, backend=backend
    )
    return torch.cat([codes.float().flatten(), scales.flatten()])


def _encoded_heads(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    x = _drawn(device, dtype, 2, SIDE, 2, head_dim)
    codes, scales = encode_heads(x, x.mean(1, dtype=torch.float32), backend=backend)
    return torch.cat([codes.float().flatten(), scales.flatten()])


def _window(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    past, own = (_drawn(device, dtype, 1, SIDE, 2, head_dim, seed=seed) for seed in (0, 1))
    codes = torch.empty(1, 2 * SIDE, 2, head_dim, dtype=torch.float8_e4m3fn, device=device)
    first = encode_window(codes, own, [past], None, backend=backend)
    grown = encode_window(codes, 9 * own, (), first.scales, backend=backend)
    return torch.cat([grown.codes.float().flatten(), grown.scales.flatten()])


def _encoded_columns(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    x = _drawn(device, dtype, SIDE, SIDE)
    codes, scales = encode_columns(x, x.abs().amax(0).float(), backend=backend)
    return torch.cat([codes.float().flatten(), scales.flatten()])


def _norm(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    x, y = (_drawn(device, dtype, 1, 2, SIDE, SIDE, seed=seed) for seed in (0, 1))
    shift, scale, gate = (_drawn(device, dtype, 1, 2, SIDE, seed=seed) for seed in (2, 3, 4))
    after = Modulation(shift, scale)
    found = add_norm(x, y, gate, after, eps=1e-6, backend=backend)[1]
    assert isinstance(found, Tensor)
    return found


def _rotated(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str) -> Tensor:
    x, weight = _drawn(device, dtype, 1, SIDE, 2 * head_dim), _drawn(device, dtype, 2 * head_dim)
    turns = _drawn(device, torch.float32, 1, SIDE, 1, head_dim // 2)
    angles = (turns.cos()[..., None], torch.stack((-turns.sin(), turns.sin()), dim=-1))
    return rotate_heads(x, 2, weight=weight, eps=1e-6, angles=angles, backend=backend)


def _gelu_rows(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    rows = gelu(_drawn(device, dtype, SIDE, SIDE), encode=True, backend=backend)
    assert isinstance(rows, EncodedRows)
    return rows.codes.float() * rows.scales


def _four_bit_pages(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    writes = nvfp4.NVFP4PageCodec(dtype=dtype, backend="reference")
    return _page(writes, nvfp4.NVFP4PageCodec(dtype=dtype, backend=backend), device, dtype)


def _eight_bit_pages(device: torch.device, dtype: torch.dtype, _: int, backend: str) -> Tensor:
    writes = Int8PageCodec(dtype=dtype, backend="reference")
    return _page(writes, Int8PageCodec(dtype=dtype, backend=backend), device, dtype)


def _page(writes: PageCodec, reads: PageCodec, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A page that one codec wrote, as the other reads it."""
    store = writes.allocate(2, PAGE, device)
    writes.write(store, 1, _drawn(device, dtype, *PAGE))
    out = torch.empty(PAGE, dtype=dtype, device=device)
    return reads.read([store], [1], [out])[0]


TESTS = (
    SelfTest(operation=ATTENTION, near=0.02, compute=_attention),
    SelfTest(operation=MASKED_ATTENTION, near=0.02, compute=_masked),
    SelfTest(operation=ATTENTION_OVER_CODES, near=0.03, compute=_over_codes),
    SelfTest(operation=ROW_MATMUL, near=0.01, compute=_eight_bit_rows),
    SelfTest(operation=BLOCK_MATMUL, near=0.01, compute=_eight_bit_blocks),
    SelfTest(
        operation=nvfp4.WEIGHT_MATMUL, near=0.01, compute=_weight_only, request=_asks_weight_only
    ),
    SelfTest(operation=nvfp4.MATMUL, near=0.01, compute=_four_by_four, request=_asks_four_by_four),
    SelfTest(operation=nvfp4.QUANTIZE, near=0.0, compute=_quantize),
    SelfTest(operation=nvfp4.QUANTIZE_BOTH, near=0.0, compute=_quantize_both),
    SelfTest(operation=nvfp4.DEQUANTIZE, near=0.0, compute=_dequantize),
    SelfTest(operation=nvfp4.DECODE_PAGES, near=0.0, compute=_four_bit_pages),
    SelfTest(operation=DECODE_BYTE_PAGES, near=0.0, compute=_eight_bit_pages),
    SelfTest(operation=ENCODE_ROWS, near=0.0, compute=_encoded_rows),
    SelfTest(operation=ENCODE_HEADS, near=0.0, compute=_encoded_heads),
    SelfTest(operation=ENCODE_WINDOW, near=0.0, compute=_window),
    SelfTest(operation=ENCODE_COLUMNS, near=0.0, compute=_encoded_columns),
    SelfTest(operation=NORM, near=0.01, compute=_norm),
    SelfTest(operation=ROTATE, near=0.01, compute=_rotated),
    SelfTest(operation=GELU, near=0.0, compute=_gelu_rows, high=0.02),
)
"""How each operation is tried."""
