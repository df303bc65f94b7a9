"""Attention over [batch, tokens, heads, head_dim]: dense, and under a mask.

Two operations, each a table of backends. ``attention`` lets every query see every key. Queries may
be fewer or more than the keys: a block of a video attends to a window of pages that holds more than
itself. ``masked_attention`` lets query ``i`` see key ``j`` where a mask says so.

Heads may be grouped: with fewer key heads than query heads, query head ``i`` reads key head
``i // (query_heads // key_heads)``.

Both choose for each call, because the answer depends on whether a gradient is needed. Under
``torch.compile`` the choice is made while tracing and costs nothing afterwards.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from longlive_core.attention_mask import AnyMask as AnyMask
from longlive_core.attention_mask import AttentionMask as AttentionMask
from longlive_core.attention_mask import TableMask as TableMask
from longlive_core.backends import (
    Backend,
    Operation,
    Request,
    all_of,
    find_function,
    forward_only,
    needs_compute_capability,
    needs_cuda,
    needs_dtype,
    needs_equal_heads,
    needs_function,
    needs_head_dim,
)
from longlive_core.checks import real
from longlive_core.foreign_masks import AnyForm, TensorMask, TiledMask, as_mask

Queries = Float[Tensor, "batch queries heads head_dim"]
Keys = Float[Tensor, "batch keys key_heads head_dim"]
_Made = AnyMask | TensorMask | TiledMask

_FA3 = (  # its builds differ in the module's name
    ("flash_attn_interface", "flash_attn_func"),
    ("fa3_fwd_interface", "flash_attn_func"),
)


def attention_request(q: Queries, k: Keys, v: Keys) -> Request:
    """The request that these operands make; it asks for a gradient if one can flow to them."""
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return Request(
        device=q.device,
        dtype=q.dtype,
        head_dim=q.shape[-1],
        needs_grad=needs_grad,
        grouped=_grouped(q, k),
    )


def attention(
    q: Queries, k: Keys, v: Keys, *, scale: float | None = None, backend: str = "auto"
) -> Queries:
    """softmax(scale * q k^T) v for every head, without a mask.

    ``scale`` is 1/sqrt(head_dim) unless given. ``backend`` is a name of the table ``ATTENTION`` or
    "auto"; a named one that cannot run raises ``BackendUnavailable``. Raises ``ValueError`` for
    operands that do not fit one another.
    """
    _require_operands("attention", q, k, v)
    name = _choose_dense(*_asked(attention_request(q, k, v)), backend)
    return ATTENTION.named(name).run(q, k, v, _scale(q, scale))


def masked_attention(
    q: Queries,
    k: Keys,
    v: Keys,
    mask: AnyForm | None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Queries:
    """softmax(scale * q k^T) v over the keys that ``mask`` lets each query see.

    ``mask`` is an ``AttentionMask`` or a ``TableMask``; or a boolean tensor [queries, keys] or
    [batch, heads, queries, keys] (1 for what does not differ), True where a query sees a key; or
    FlexAttention's ``BlockMask``; or None, which is ``attention``. ``scale`` is 1/sqrt(head_dim)
    unless given. ``backend`` is a name of the table ``MASKED_ATTENTION`` or "auto", which leaves a
    boolean tensor to "sdpa".

    Raises ``ValueError`` when the mask was made for other numbers of tokens, or leaves a query
    without a key. Inside a compiled function, pass a mask that was prepared for the device
    (``AttentionMask.prepare``); of a boolean tensor nothing is checked there.
    """
    if mask is None:
        return attention(q, k, v, scale=scale, backend=backend)
    _require_operands("masked_attention", q, k, v)
    made = as_mask(mask)
    if (q.shape[1], k.shape[1]) != (made.q_len, made.kv_len):
        raise ValueError(
            f"masked_attention got {q.shape[1]} queries and {k.shape[1]} keys, but the mask is for "
            f"{made.q_len} queries and {made.kv_len} keys: a mask names tokens by their index. "
            f"Build the mask for these lengths."
        )
    if backend == "auto" and isinstance(made, TensorMask):
        backend = "sdpa"
    name = _choose_masked(*_asked(attention_request(q, k, v)), backend)
    return MASKED_ATTENTION.named(name).run(q, k, v, made, _scale(q, scale))


def _constant_when_compiled(choose: Callable[..., str]) -> Callable[..., str]:
    """What ``torch.compiler.assume_constant_result`` does, without its import of the compiler.

    That import takes a second, which everybody would pay for those who compile.
    """
    vars(choose)["_dynamo_marked_constant"] = True
    return choose


def _asked(request: Request) -> tuple[torch.device, torch.dtype, int | None, bool, bool]:
    return (
        request.device,
        request.dtype,
        request.head_dim,
        request.needs_grad,
        request.grouped,
    )


@_constant_when_compiled
def _choose_dense(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int | None,
    needs_grad: bool,
    grouped: bool,
    backend: str,
) -> str:
    request = Request(
        device=device, dtype=dtype, head_dim=head_dim, needs_grad=needs_grad, grouped=grouped
    )
    return ATTENTION.receipt(request, backend).backend


@_constant_when_compiled
def _choose_masked(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int | None,
    needs_grad: bool,
    grouped: bool,
    backend: str,
) -> str:
    request = Request(
        device=device, dtype=dtype, head_dim=head_dim, needs_grad=needs_grad, grouped=grouped
    )
    return MASKED_ATTENTION.receipt(request, backend).backend


def _grouped(q: Tensor, k: Tensor) -> bool:
    return q.shape[2] != k.shape[2]


def _scale(q: Tensor, scale: float | None) -> float:
    if scale is None:
        return 1.0 / math.sqrt(q.shape[-1])
    return real("attention's scale", scale, why="it multiplies scores. Leave it out for the usual.")


def _require_operands(what: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for what backends would refuse in their own words, or broadcast."""
    fits = q.ndim == k.ndim == 4 and k.shape == v.shape
    fits = fits and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
    if not fits or 0 in q.shape or 0 in k.shape or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{what} takes queries, keys and values [batch, tokens, heads, head_dim], keys and "
            f"values of one length, all of one batch and head_dim, query heads a multiple of key "
            f"heads, got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}: each query weighs "
            f"every key's value. Give each key its value."
        )
    if not q.is_floating_point() or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"{what} takes queries, keys and values of one floating type, got {q.dtype}, "
            f"{k.dtype} and {v.dtype}: nothing is converted in silence. Convert them first."
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"{what} takes queries, keys and values on one device, got {q.device}, {k.device} and "
            f"{v.device}: nothing is moved in silence. Move them first."
        )


def _fa4(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    from flash_attn.cute import flash_attn_func

    return _first(flash_attn_func(q, k, v, softmax_scale=scale))


def _fa3(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.ops.longlive.fa3_forward(q, k, v, scale)
    return _fa3_forward(q, k, v, scale)  # an operation of our own takes Python time


def _fa3_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    flash_attn_func, _ = find_function(*_FA3)
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
    how = {"block_mask": tiles, "scale": scale, "enable_gqa": _grouped(q, k)}
    return _compiled_flex_attention()(*_heads_first(q, k, v), **how).transpose(1, 2)


@functools.cache
def _compiled_flex_attention() -> Callable:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _sdpa_masked(q: Tensor, k: Tensor, v: Tensor, mask: _Made, scale: float) -> Tensor:
    return _torch_sdpa(q, k, v, scale, mask.dense(q.device, q.shape[0], q.shape[2]))


def _torch_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor | None) -> Tensor:
    grouped = _grouped(q, k)
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


_HALF = needs_dtype(torch.bfloat16, torch.float16)

ATTENTION = Operation(
    "attention",
    (
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
                needs_function("fa3-fwd or another build of FlashAttention-3", *_FA3),
            ),
        ),
        Backend(
            name="cudnn",
            run=_cudnn,
            why_not=all_of(
                needs_compute_capability((8, 0)), _HALF, needs_head_dim(multiple_of=8, high=128)
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
