"""Diffusers' Wan over several ranks: an attention processor that exchanges tokens for heads.

share(model, sp)
own = model(sp.shard(latents, 2), timestep, text).sample  # one timestep for all frames
"""

import torch
from torch import Tensor, nn

from longlive_core.attention import attention
from longlive_core.sequence_parallel import BalancedSP


class ExchangedAttention:
    """Projects this rank's tokens, and attends over all tokens with this rank's heads."""

    def __init__(self, sp: BalancedSP) -> None:
        self.sp = sp

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None
    ):
        text = encoder_hidden_states
        source = hidden_states if text is None else text
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source))
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, attn.to_v(source)))
        if text is not None:  # every rank has the whole text
            y = attention(q, k, v)
        else:
            q, k = rotated(q, *rotary_emb), rotated(k, *rotary_emb)
            y = self.sp.to_sequence(attention(*self.sp.to_heads(q, k, v)))
        return attn.to_out[1](attn.to_out[0](y.flatten(2)))


class OwnFrames(nn.Module):
    """Rotary tables of this rank's frames, in place of the model's ``rope``."""

    def __init__(self, rope: nn.Module, sp: BalancedSP) -> None:
        super().__init__()
        self.rope, self.sp = rope, sp

    def forward(self, latents: Tensor) -> tuple[Tensor, ...]:
        frames = self.sp.partition.frames
        tables = self.rope(latents[:, :, :1].expand(-1, -1, frames, -1, -1))  # of the whole video
        by_frame = (table.unflatten(1, (frames, -1)) for table in tables)
        return tuple(self.sp.shard(table, 1).flatten(1, 2) for table in by_frame)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


def share(model: nn.Module, sp: BalancedSP) -> None:
    if model.config.added_kv_proj_dim is not None:
        raise ValueError("this Wan also attends to an image's tokens, which is not written here")
    model.set_attn_processor(ExchangedAttention(sp))
    model.rope = OwnFrames(model.rope, sp)
