"""The tables of backends of attention; ``attention.py`` has the functions.

A backend of ``ATTENTION`` is ``run(q, k, v, scale)``, one of ``MASKED_ATTENTION`` is ``run(q, k, v,
mask, scale)``; queries, keys and values are [batch, tokens, heads, head_dim]. Backends of
``ATTENTION_OVER_CODES`` are as those of ``ATTENTION``, but keys and values are ``EncodedHeads``.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from longlive_core.attention_eight_bit import (
    FA3,
    emulated_over_codes,
    fa3,
    fa3_over_codes,
    fa3_smooth,
)
from longlive_core.attention_mask import AnyMask
from longlive_core.backends import (
    Backend,
    Condition,
    Operation,
    Request,
    all_of,
    always,
    find_function,
    forward_only,
    needs_compute_capability,
    needs_cuda,
    needs_dtype,
    needs_equal_heads,
    needs_function,
    needs_head_dim,
)
from longlive_core.foreign_masks import TensorMask, TiledMask

_Made = AnyMask | TensorMask | TiledMask


def _fa4(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from flash_attn.cute import flash_attn_func

    return _first(flash_attn_func(q, k, v, softmax_scale=scale))


def _fa3(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.ops.longlive.fa3_forward(q, k, v, scale)
    return _fa3_forward(q, k, v, scale)  # an operation of our own takes Python time


def _fa3_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    flash_attn_func, _ = find_function(*FA3)
    assert flash_attn_func is not None
    return _first(flash_attn_func(q, k, v, softmax_scale=scale))


_fa3_operation = torch.library.custom_op("longlive::fa3_forward", _fa3_forward, mutates_args=())
"""FlashAttention-3's forward as one opaque operation, so that compiled models can hold it."""


@_fa3_operation.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _fa2(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v, softmax_scale=scale)


def _xformers(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q, k, v, scale=scale)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, k, v, scale)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _torch_sdpa(q, k, v, scale, None)


def _reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _softmax_attention(q, k, v, scale, None)


def _flex_masked(q: Tensor, k: Tensor, v: Tensor, mask: _Made, scale: float) -> Tensor:
    """FlexAttention, compiled at the first call; with gradients."""
    tiles = mask.flex(q.device, q.shape[0], q.shape[2])
    out = _compiled_flex_attention()(
        *_heads_first(q, k, v), block_mask=tiles, scale=scale, enable_gqa=grouped_heads(q, k)
    )
    return out.transpose(1, 2)


@functools.cache
def _compiled_flex_attention() -> Callable:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _sdpa_masked(q: Tensor, k: Tensor, v: Tensor, mask: _Made, scale: float) -> Tensor:
    return _torch_sdpa(q, k, v, scale, mask.dense(q.device, q.shape[0], q.shape[2]))


def _torch_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor | None) -> Tensor:
    grouped = grouped_heads(q, k)
    q, k, v = _heads_first(q, k, v)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2)


def _reference_masked(q: Tensor, k: Tensor, v: Tensor, mask: _Made, scale: float) -> Tensor:
    return _softmax_attention(q, k, v, scale, mask.dense(q.device, q.shape[0], q.shape[2]))


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor | None
) -> Tensor:
    """The meaning of attention, in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (x.to(wide).repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(wide), k) * scale
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).to(q.dtype)


def grouped_heads(q: Tensor, k: Tensor) -> bool:
    """Whether there are fewer key heads than query heads."""
    return q.shape[2] != k.shape[2]


def _heads_first(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, tokens, heads, head_dim] -> [batch, heads, tokens, head_dim], as views."""
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Some releases of FlashAttention return the log-sum-exp beside the output."""
    return result[0] if isinstance(result, tuple) else result


def _slow_to_compile_on_hopper(request: Request) -> str | None:
    if torch.cuda.get_device_capability(request.device) < (10, 0):
        return "before Blackwell it is no faster than FA3 or cuDNN, and compiles for minutes"
    return None


def _torch_has_these_kernels(request: Request) -> str | None:
    return "torch's own SDPA holds the same kernels or faster ones"


def _slower_before_hopper(request: Request) -> str | None:
    if torch.cuda.get_device_capability(request.device) < (9, 0):
        return "before Hopper it is slower than SDPA's flash kernel"
    return None


def _compiler_cannot_hold_it(request: Request) -> str | None:
    return "a compiled model cannot hold it" if torch.compiler.is_compiling() else None


def _with_scaled_keys(name: str, run: Callable, why_not_auto: Condition) -> Backend:
    """FlashAttention-3 over E4M3: 2.4 ms where bf16 takes 3.2, at 7,040 by 28,160 on an H200."""
    return Backend(
        name=name, run=run, why_not=_NEEDS_OF_FP8, why_not_auto=why_not_auto, quality="high"
    )


_NEEDS_OF_FP8 = all_of(
    needs_compute_capability((9, 0), (9, 0)),
    forward_only,
    needs_dtype(torch.bfloat16),
    needs_head_dim(multiple_of=16, high=256),
    needs_equal_heads,
    _compiler_cannot_hold_it,
    needs_function("fa3-fwd or another build of FlashAttention-3", *FA3),
)


def _takes_another_pass(request: Request) -> str | None:
    return "the mean of the keys takes a further pass over them"


_HALF = needs_dtype(torch.bfloat16, torch.float16)

ATTENTION = Operation(
    "attention",
    (
        _with_scaled_keys("fa3-fp8", fa3, always),
        _with_scaled_keys("fa3-fp8-smooth", fa3_smooth, _takes_another_pass),
        Backend(
            name="fa4",
            run=_fa4,
            why_not=all_of(
                needs_compute_capability((9, 0)),
                _HALF,
                needs_head_dim(multiple_of=8, high=128),
                needs_function("flash-attn-4", ("flash_attn.cute", "flash_attn_func")),
            ),
            why_not_auto=_slow_to_compile_on_hopper,
        ),
        Backend(
            name="fa3",
            run=_fa3,
            why_not=all_of(
                needs_compute_capability((9, 0), (9, 0)),
                forward_only,
                needs_dtype(torch.bfloat16),
                needs_head_dim(multiple_of=8, high=256),
                needs_function("fa3-fwd or another build of FlashAttention-3", *FA3),
            ),
        ),
        Backend(
            name="cudnn",
            run=_cudnn,
            why_not=all_of(
                needs_compute_capability((8, 0)),
                _HALF,
                needs_head_dim(multiple_of=8, high=128),
                needs_equal_heads,
            ),
            why_not_auto=_slower_before_hopper,
        ),
        Backend(
            name="fa2",
            run=_fa2,
            why_not=all_of(
                needs_compute_capability((8, 0)),
                _HALF,
                needs_head_dim(multiple_of=8, high=256),
                needs_function("flash-attn", ("flash_attn", "flash_attn_func")),
            ),
            why_not_auto=_torch_has_these_kernels,
        ),
        Backend(
            name="xformers",
            run=_xformers,
            why_not=all_of(
                needs_compute_capability((8, 0)),
                _HALF,
                needs_head_dim(multiple_of=8, high=256),
                needs_equal_heads,
                needs_function("xformers", ("xformers.ops", "memory_efficient_attention")),
            ),
            why_not_auto=_torch_has_these_kernels,
        ),
        Backend(name="sdpa", run=_sdpa),
        Backend(name="reference", run=_reference),
    ),
)

MASKED_ATTENTION = Operation(
    "masked_attention",
    (
        Backend(
            name="flex",
            run=_flex_masked,
            why_not=all_of(needs_cuda, needs_head_dim(multiple_of=8, low=16, high=256)),
        ),
        Backend(name="sdpa", run=_sdpa_masked),
        Backend(name="reference", run=_reference_masked),
    ),
)

ATTENTION_OVER_CODES = Operation(
    "attention_over_codes",
    (
        Backend(name="fa3-fp8", run=fa3_over_codes, why_not=_NEEDS_OF_FP8),
        Backend(name="emulated", run=emulated_over_codes, why_not=needs_equal_heads),
    ),
)
