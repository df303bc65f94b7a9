"""Text and image that attend together, over several ranks: a processor for Diffusers' Flux.

Every rank holds the whole text and its own rows of the image. HunyuanVideo, CogVideoX and LTX-2 do
alike: what changes is how a model projects and in which order text and video stand.

    model.set_attn_processor(JointAttention(sp))
    own = model(rows_of(latents), img_ids=rows_of(img_ids), ...)   # sp.shard by rows
"""

import torch
from torch import Tensor

from longlive_core.attention import attention
from longlive_core.sequence_parallel import BalancedSP


def joint_attention(sp: BalancedSP, q: Tensor, k: Tensor, v: Tensor, text: int) -> Tensor:
    """``text`` tokens that all ranks hold, then this rank's own: [batch, tokens, heads, dim]."""
    own = sp.to_heads(*(x[:, text:] for x in (q, k, v)))
    words = (sp.own_heads(x[:, :text]) for x in (q, k, v))
    y = attention(*(torch.cat(pair, 1) for pair in zip(words, own, strict=True)))
    return torch.cat((sp.gather_heads(y[:, :text]), sp.to_sequence(y[:, text:])), 1)


class JointAttention:
    """Of the blocks with two streams, and of those that hold text and image as one."""

    def __init__(self, sp: BalancedSP) -> None:
        self.sp = sp

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        image_rotary_emb=None,
    ):
        from diffusers.models.embeddings import apply_rotary_emb

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1))

        x, words = hidden_states, encoder_hidden_states
        q, k, v = heads(attn.to_q(x)), heads(attn.to_k(x)), heads(attn.to_v(x))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if words is not None:
            text_q = attn.norm_added_q(heads(attn.add_q_proj(words)))
            text_k = attn.norm_added_k(heads(attn.add_k_proj(words)))
            text_v = heads(attn.add_v_proj(words))
            q, k, v = (torch.cat(p, 1) for p in ((text_q, q), (text_k, k), (text_v, v)))
        q, k = (apply_rotary_emb(y, image_rotary_emb, sequence_dim=1) for y in (q, k))
        text = q.shape[1] - self.sp.partition.tokens_by_rank[self.sp.group.rank]
        y = joint_attention(self.sp, q, k, v, text).flatten(2)
        if words is None:
            return y
        return attn.to_out[1](attn.to_out[0](y[:, text:])), attn.to_add_out(y[:, :text])
