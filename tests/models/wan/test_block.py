"""One block against its equations, written out token by token."""

import torch
from torch import nn

from longlive_models.wan.attention import AttentionContext
from longlive_models.wan.rope import rotation
from tests.models.wan.tiny import TINY, tiny_model


def test_a_block_is_its_three_equations():
    block = tiny_model().blocks[1]
    x = torch.randn(2, 3, 4, TINY.dim, dtype=torch.float64)
    time = torch.randn(2, 3, 6, TINY.dim, dtype=torch.float64)
    text = torch.randn(2, 1, TINY.text_len, TINY.dim, dtype=torch.float64)
    at = torch.arange(3, dtype=torch.float64)[None]
    context = AttentionContext(rotation=rotation(at, (2, 2), TINY.head_dim, dtype=torch.float64))

    # a vector for each token, where the block broadcasts one for each step
    m = (block.modulation + time.flatten(0, 1)).unflatten(0, (2, 3)).repeat_interleave(4, dim=1)
    shift1, scale1, gate1, shift2, scale2, gate2 = m.unbind(2)
    y = x.flatten(1, 2)

    def normal(z: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(z, (TINY.dim,), eps=TINY.eps)

    y = y + gate1 * block.self_attn(normal(y) * (1 + scale1) + shift1, context)
    affine = normal(y) * block.norm3.weight + block.norm3.bias
    y = y + block.cross_attn(affine, block.cross_attn.project_text(text))
    y = y + gate2 * block.ffn(normal(y) * (1 + scale2) + shift2)

    torch.testing.assert_close(block(x, time, text, context).flatten(1, 2), y, rtol=0, atol=1e-11)
