"""The random Hadamard transform, 16 wide: spreads outliers over their block before quantizing.

    rotate(x) = x H,   H = diag(signs) W / 4,   W[i, j] = (-1)**popcount(i & j)

applied to every 16 neighboring columns. H is orthogonal, so a product of two matrices that are
both rotated along the shared dimension is the product of the originals: training rotates the
operands of the weight gradient and undoes nothing. The signs are fixed: those of Transformer Engine
and of the original LongLive-2.0 (arXiv 2605.18739).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.nvfp4.format import BLOCK
from longlive_core.tensor_checks import dense

SIGNS = (1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1)


def rotate(x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch cols"]:
    """x H in blocks of 16 columns, added in float32 and rounded once to the type of ``x``.

    Four rounds of sums and differences of columns 1, 2, 4 and 8 apart; the order is fixed, so every
    device gives the same bits. A result can be four times the largest number: float16 beyond 16,376
    may become infinite, which ``rotate(x.float())`` does not. Raises ``ValueError`` unless the
    columns divide by 16.
    """
    blocks = _blocks(x).float() * _signs(x)
    return (_butterflies(blocks) * 0.25).to(x.dtype).view(x.shape)


def rotate_wide(x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch cols"]:
    """``rotate``, with float16 left in float32, whose range it cannot leave."""
    return rotate(x.float() if x.dtype == torch.float16 else x)


def unrotate(x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch cols"]:
    """x H^T: the inverse of ``rotate``, up to rounding."""
    blocks = _butterflies(_blocks(x).float()) * 0.25
    return (blocks * _signs(x)).to(x.dtype).view(x.shape)


def _blocks(x: Tensor) -> Tensor:
    dense("what the Hadamard transform mixes", x, why="it is a tensor of float numbers.")
    if not x.is_floating_point():
        raise ValueError(
            f"the Hadamard transform adds float32, and {x.dtype} is no float type. Convert it."
        )
    if x.ndim == 0 or x.shape[-1] % BLOCK:
        raise ValueError(
            f"the Hadamard transform needs columns divisible by {BLOCK}, got shape "
            f"{tuple(x.shape)}: it mixes blocks of {BLOCK}. Pad the last dimension with zeros."
        )
    return x.reshape(-1, BLOCK)


def _signs(x: Tensor) -> Tensor:
    return torch.tensor(SIGNS, dtype=torch.float32, device=x.device)


def _butterflies(blocks: Tensor) -> Tensor:
    """x W: at each distance, the sum takes the first place and the difference the second."""
    for distance in (1, 2, 4, 8):
        first, second = blocks.unflatten(1, (-1, 2, distance)).unbind(2)
        blocks = torch.stack((first + second, first - second), dim=2).flatten(1)
    return blocks
