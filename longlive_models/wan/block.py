"""One block of the transformer: self-attention, cross-attention, feed-forward."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_models.wan.attention import AttentionContext, CrossAttention, SelfAttention
from longlive_models.wan.config import WanConfig
from longlive_models.wan.embeddings import modulate


class WanBlock(nn.Module):
    """One block of the transformer, modulated by six vectors m0 .. m5 for each timestep.

    With ``m`` = ``modulation`` + the projected timestep::

        x <- x + m2 * SelfAttention(LN(x) * (1 + m1) + m0)
        x <- x +      CrossAttention(LN(x), text)
        x <- x + m5 * FFN(LN(x) * (1 + m4) + m3)

    Tokens are grouped by their timestep: [batch, steps, tokens, dim], in order.
    """

    def __init__(
        self,
        config: WanConfig,
        layer: int,
        *,
        attention: str,
        masked_attention: str,
    ) -> None:
        super().__init__()
        dim, heads, eps, qk_norm = config.dim, config.num_heads, config.eps, config.qk_norm
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.self_attn = SelfAttention(
            dim,
            heads,
            layer=layer,
            eps=eps,
            qk_norm=qk_norm,
            backend=attention,
            masked_backend=masked_attention,
        )
        self.norm3 = (
            nn.LayerNorm(dim, eps, dtype=torch.float32) if config.cross_attn_norm else nn.Identity()
        )
        self.cross_attn = CrossAttention(dim, heads, eps=eps, qk_norm=qk_norm, backend=attention)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim, dtype=torch.float32),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, dim, dtype=torch.float32),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim, dtype=torch.float32))

    def forward(
        self,
        x: Float[Tensor, "batch steps tokens dim"],
        time: Float[Tensor, "batch steps 6 dim"],
        text: Float[Tensor, "batch segments length dim"] | tuple[Tensor, Tensor],
        context: AttentionContext,
    ) -> Float[Tensor, "batch steps tokens dim"]:
        """``text`` is embedded text, or keys and values that this block computed from it before."""
        modulation = (self.modulation[:, None] + time)[..., None, :]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(2)
        if isinstance(text, Tensor):
            text = self.cross_attn.project_text(text)
        shape = x.shape[1:3]

        y = modulate(self.norm1(x), shift1, scale1).flatten(1, 2)
        y = self.self_attn(y, context)
        x = torch.addcmul(x, y.unflatten(1, shape), gate1)
        y = self.cross_attn(self.norm3(x).flatten(1, 2), text, copies=context.copies)
        x = x + y.unflatten(1, shape)
        y = self.ffn(modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, y, gate2)
