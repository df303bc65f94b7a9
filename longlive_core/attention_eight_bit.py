"""Attention whose products are of eight bits: backends of the quality "high".

Queries, keys and values become E4M3 with one scale a sample and head (``eight_bit.heads``), and so
do the weights of the softmax, whose scale is the same for all (a weight of 1 becomes 256). Keys may
lose their mean over tokens first ("smooth"): it adds the same to all of a query's scores, which
softmax does not see, and where keys have much in common the rest of them is rounded less coarsely.

Backends are ``run(q, k, v, scale)`` over [batch, tokens, heads, head_dim]. ``emulated`` is what
they mean, in float32: for tests, and for what the error is on numbers of one's own. Those that end
in ``over_codes`` take keys and values that are in E4M3 already, and encode the queries alone.
"""

from functools import partial

import torch
from torch import Tensor

from longlive_core.backends import find_function
from longlive_core.eight_bit import EncodedHeads, decode_heads, encode_heads

FA3 = (  # its builds differ in the module's name
    ("flash_attn_interface", "flash_attn_func"),
    ("fa3_fwd_interface", "flash_attn_func"),
)

ONE = 256.0
"""The code of a softmax weight of 1. From there on steps of E4M3 are 32, an eighth of it; a weight
of 0.001 is still a normal number."""


def _fa3(q: Tensor, k: Tensor, v: Tensor, scale: float, *, smooth: bool) -> Tensor:
    return fa3_over_codes(q, *_encoded(k, v, smooth), scale)


fa3 = partial(_fa3, smooth=False)
fa3_smooth = partial(_fa3, smooth=True)


def fa3_over_codes(q: Tensor, k: EncodedHeads, v: EncodedHeads, scale: float) -> Tensor:
    """FlashAttention-3 over keys and values in E4M3."""
    flash_attn_func, _ = find_function(*FA3)
    assert flash_attn_func is not None
    codes, of_q = encode_heads(q)
    found = flash_attn_func(
        codes,
        k.codes,
        v.codes,
        softmax_scale=scale,
        q_descale=of_q,
        k_descale=k.scales,
        v_descale=v.scales,
    )
    out = found[0] if isinstance(found, tuple) else found
    return out.to(q.dtype)


def emulated(q: Tensor, k: Tensor, v: Tensor, scale: float, *, smooth: bool = False) -> Tensor:
    """What the backends compute, in float32; for as many key heads as query heads."""
    return emulated_over_codes(q, *_encoded(k, v, smooth), scale)


def emulated_over_codes(q: Tensor, k: EncodedHeads, v: EncodedHeads, scale: float) -> Tensor:
    """What ``fa3_over_codes`` computes, in float32."""
    wide_q, wide_k, wide_v = (decode_heads(*encoded) for encoded in (encode_heads(q), k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", wide_q, wide_k) * scale
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    rounded = (weights * ONE).to(torch.float8_e4m3fn).float() / ONE
    out = torch.einsum("bhqk,bkhd->bqhd", rounded, wide_v)
    return (out / weights.sum(-1).transpose(1, 2)[..., None]).to(q.dtype)


def _encoded(k: Tensor, v: Tensor, smooth: bool) -> tuple[EncodedHeads, EncodedHeads]:
    mean = k.mean(1, dtype=torch.float32) if smooth else None
    return EncodedHeads(*encode_heads(k, mean)), EncodedHeads(*encode_heads(v))
