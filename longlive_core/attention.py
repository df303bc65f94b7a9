"""Attention over [batch, tokens, heads, head_dim]: dense, and under a mask.

Three operations, each a table of backends (``attention_backends.py``). ``attention`` lets every
query see every key, and so does ``attention_over_codes``, whose keys and values are in E4M3.
Queries may be fewer or more than the keys: a block of a video attends to a window of pages that
holds more than itself. ``masked_attention`` lets query ``i`` see key ``j`` where a mask says so.

Heads may be grouped: with fewer key heads than query heads, query head ``i`` reads key head
``i // (query_heads // key_heads)``.

All choose for each call, because the answer depends on whether a gradient is needed. Under
``torch.compile`` the choice is made while tracing and costs nothing afterwards.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.attention_backends import ATTENTION as ATTENTION
from longlive_core.attention_backends import ATTENTION_OVER_CODES as ATTENTION_OVER_CODES
from longlive_core.attention_backends import MASKED_ATTENTION as MASKED_ATTENTION
from longlive_core.attention_backends import grouped_heads
from longlive_core.attention_mask import AnyMask as AnyMask
from longlive_core.attention_mask import AttentionMask as AttentionMask
from longlive_core.attention_mask import TableMask as TableMask
from longlive_core.backends import Backend, Operation, Request
from longlive_core.checks import real
from longlive_core.eight_bit import EncodedHeads
from longlive_core.foreign_masks import AnyForm, TensorMask, as_mask
from longlive_core.tensor_checks import dense
from longlive_core.traced import constant_when_compiled

_TABLES = (ATTENTION, MASKED_ATTENTION, ATTENTION_OVER_CODES)

Queries = Float[Tensor, "batch queries heads head_dim"]
Keys = Float[Tensor, "batch keys key_heads head_dim"]


def attention_request(q: Queries, k: Keys, v: Keys, quality: str = "lossless") -> Request:
    """The request that these operands make; it asks for a gradient if one can flow to them."""
    for name, x in (("queries", q), ("keys", k), ("values", v)):
        dense(name, x, why="they are [batch, tokens, heads, head_dim].")
        if x.ndim != 4:
            raise ValueError(
                f"{name} are [batch, tokens, heads, head_dim], got shape {tuple(x.shape)}: heads "
                f"and their size say which backend can run. Pass tensors of such shapes."
            )
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return Request(
        device=q.device,
        dtype=q.dtype,
        head_dim=q.shape[-1],
        needs_grad=needs_grad,
        grouped=grouped_heads(q, k),
        quality=quality,
    )


def attention(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    scale: float | None = None,
    backend: str = "auto",
    quality: str = "lossless",
) -> Queries:
    """softmax(scale * q k^T) v for every head, without a mask.

    ``scale`` is 1/sqrt(head_dim) unless given. ``backend`` is a name of the table ``ATTENTION`` or
    "auto", which takes backends of eight bits only for the quality "high"; a named one that cannot
    run raises ``BackendUnavailable``. Raises ``ValueError`` for operands that do not fit one
    another.
    """
    _require_operands("attention", q, k, v)
    chosen = _choice(ATTENTION, attention_request(q, k, v, quality), backend)
    return chosen.run(q, k, v, _scale(q, scale))


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
    if isinstance(made, TableMask):
        made.check_batch(q.shape[0])
    if backend == "auto" and isinstance(made, TensorMask):
        backend = "sdpa"
    chosen = _choice(MASKED_ATTENTION, attention_request(q, k, v), backend)
    return chosen.run(q, k, v, made, _scale(q, scale))


def attention_over_codes(
    q: Queries,
    k: EncodedHeads,
    v: EncodedHeads,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Queries:
    """softmax(scale * q k^T) v over keys and values in E4M3; queries are rounded to it as well.

    ``scale`` is 1/sqrt(head_dim) unless given. ``backend`` is a name of the table
    ``ATTENTION_OVER_CODES`` or "auto"; a named one that cannot run raises ``BackendUnavailable``.
    Raises ``ValueError`` for operands that do not fit one another. No gradient reaches the keys.
    """
    keys, values = k.codes, v.codes
    fits = q.ndim == keys.ndim == 4 and keys.shape == values.shape
    fits = fits and (q.shape[0], *q.shape[2:]) == (keys.shape[0], *keys.shape[2:])
    if not fits or 0 in q.shape or 0 in keys.shape:
        raise ValueError(
            f"attention_over_codes takes queries, keys and values [batch, tokens, heads, head_dim] "
            f"that differ in tokens alone, keys and values in nothing, got {list(q.shape)}, "
            f"{list(keys.shape)} and {list(values.shape)}: each head has one scale, and a query's "
            f"result is a weighted sum of the values. Pass tensors of such shapes."
        )
    chosen = _choice(ATTENTION_OVER_CODES, attention_request(q, keys, values, "high"), backend)
    return chosen.run(q, k, v, _scale(q, scale))


def _choice(operation: Operation, request: Request, backend: str) -> Backend:
    """The backend of a table that this request gets."""
    name = _choose(
        operation.name,
        request.device,
        request.dtype,
        request.head_dim,
        request.needs_grad,
        request.grouped,
        request.quality,
        backend,
    )
    return operation.named(name)


@constant_when_compiled
def _choose(
    table: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int | None,
    needs_grad: bool,
    grouped: bool,
    quality: str,
    backend: str,
) -> str:
    request = Request(
        device=device,
        dtype=dtype,
        head_dim=head_dim,
        needs_grad=needs_grad,
        grouped=grouped,
        quality=quality,
    )
    operation = next(one for one in _TABLES if one.name == table)
    return operation.receipt(request, backend).backend


def _scale(q: Tensor, scale: float | None) -> float:
    if scale is None:
        return 1.0 / math.sqrt(q.shape[-1])
    return real("attention's scale", scale, why="it multiplies scores. Leave it out for the usual.")


def _require_operands(what: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for what backends would refuse in their own words, or broadcast."""
    for name, x in (("queries", q), ("keys", k), ("values", v)):
        dense(f"{what}'s {name}", x, why="they are [batch, tokens, heads, head_dim].")
    fits = q.ndim == k.ndim == 4 and k.shape == v.shape
    fits = fits and (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
    if not fits or 0 in q.shape or 0 in k.shape or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"{what} takes queries, keys and values [batch, tokens, heads, head_dim], keys and "
            f"values of one length, all of one batch and head_dim, query heads a multiple of key "
            f"heads, got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}: a query's "
            f"result is a weighted sum of the values, one a key. Pass tensors of such shapes."
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
