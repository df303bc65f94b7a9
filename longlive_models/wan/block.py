"""One block of the transformer: self-attention, cross-attention, feed-forward."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.eight_bit import EncodedRows
from longlive_core.fused import Affine, Modulation, add, add_norm, gelu, norm
from longlive_models.wan.attention import (
    AttentionContext,
    CrossAttention,
    SelfAttention,
    takes_rows,
)
from longlive_models.wan.config import WanConfig


class WanBlock(nn.Module):
    """One block of the transformer, modulated by six vectors m0 .. m5 for each timestep.

    With ``m`` = ``modulation`` + the projected timestep::

        x <- x + m2 * SelfAttention(LN(x) * (1 + m1) + m0)
        x <- x +      CrossAttention(LN(x), text)
        x <- x + m5 * FFN(LN(x) * (1 + m4) + m3)

    Tokens are grouped by their timestep: [batch, steps, tokens, dim], in order. What stands between
    the products is of ``longlive_core.fused``, whose backend ``fused`` names; ``quality`` is the
    tier of the fast paths.
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
        self.use("lossless", "auto")

    def use(self, quality: str, fused: str) -> None:
        """Take the fast paths of a tier, and the backend of the fused operations by its name."""
        self.quality = self.self_attn.quality = quality
        self.fused = self.self_attn.fused = self.cross_attn.fused = fused

    def forward(
        self,
        x: Float[Tensor, "batch steps tokens dim"],
        time: Float[Tensor, "batch steps 6 dim"],
        text: Float[Tensor, "batch segments length dim"] | tuple[Tensor, Tensor],
        context: AttentionContext,
        fills: bool = False,
    ) -> Float[Tensor, "batch steps tokens dim"]:
        """``text`` is embedded text, or keys and values that this block computed from it before.

        With ``fills`` the block ends when its keys and values are in the memory: ``x`` comes back
        as it was.
        """
        modulation = self.modulation[:, None] + time
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(2)
        attention = self.self_attn
        rows = takes_rows(attention.q, attention.k, attention.v)
        y = self._norm(x, self.norm1, Modulation(shift1, scale1), rows)
        if fills:
            attention.fill(_in_a_row(y), context)
            return x
        if isinstance(text, Tensor):
            text = self.cross_attn.project_text(text)
        shape = x.shape[1:3]

        y = attention(_in_a_row(y), context).unflatten(1, shape)
        if isinstance(self.norm3, nn.LayerNorm):
            affine = Affine(self.norm3.weight, self.norm3.bias)
            rows = takes_rows(self.cross_attn.q)
            x, y = self._add_norm(x, y, gate1, self.norm3, affine, rows)
        else:
            x = y = add(x, y, gate1, backend=self.fused)
        y = self.cross_attn(_in_a_row(y), text, copies=context.copies).unflatten(1, shape)
        first, _, second = self.ffn
        after = Modulation(shift2, scale2)
        x, y = self._add_norm(x, y, None, self.norm2, after, takes_rows(first))
        backend = "torch" if self.fused in ("torch", "reference") else "auto"
        y = gelu(first(y), encode=takes_rows(second), backend=backend, quality=self.quality)
        return add(x, second(y), gate2, backend=self.fused)

    def _norm(
        self, x: Tensor, layer: nn.LayerNorm, after: Modulation, rows: bool
    ) -> Tensor | EncodedRows:
        return norm(x, after, eps=layer.eps, encode=rows, backend=self.fused)

    def _add_norm(
        self,
        x: Tensor,
        y: Tensor,
        gate: Tensor | None,
        layer: nn.LayerNorm,
        after: Modulation | Affine,
        rows: bool,
    ) -> tuple[Tensor, Tensor | EncodedRows]:
        return add_norm(x, y, gate, after, eps=layer.eps, encode=rows, backend=self.fused)


def _in_a_row(x: Tensor | EncodedRows) -> Tensor | EncodedRows:
    """[batch, steps, tokens, ...] -> [batch, steps * tokens, ...]."""
    if isinstance(x, EncodedRows):
        return EncodedRows(x.codes.flatten(1, 2), x.scales.flatten(1, 2))
    return x.flatten(1, 2)
