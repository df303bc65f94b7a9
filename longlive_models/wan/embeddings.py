"""First and last layers of the transformer: latents to tokens and back, timesteps to vectors."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Each patch of a latent frame becomes a token: a strided Conv3d, computed as one linear."""

    def __init__(self, channels: int, dim: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(dim, channels, *patch_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(dim, dtype=torch.float32))

    def forward(self, latents: Float[Tensor, "B C F Y X"]) -> Float[Tensor, "B F tokens dim"]:
        """Tokens of a frame lie row by row."""
        _, rows, columns = self.patch_size
        patches = latents.unflatten(4, (-1, columns)).unflatten(3, (-1, rows))
        # B C F y rows x columns -> B F y x C rows columns: the order of the weight's inputs
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)
        return nn.functional.linear(
            patches.to(self.weight.dtype), self.weight.flatten(1), self.bias
        )


def unpatchify(
    x: Float[Tensor, "B F tokens values"], grid: tuple[int, int], patch_size: tuple[int, int, int]
) -> Float[Tensor, "B C F Y X"]:
    """Tokens' values (row in patch, column in patch, channel; channel fastest) to latents."""
    _, rows, columns = patch_size
    x = x.unflatten(3, (rows, columns, -1)).unflatten(2, grid)
    # B F y x rows columns C -> B C F y rows x columns
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def sinusoid(timesteps: Float[Tensor, "*shape"], width: int) -> Float[Tensor, "*shape width"]:
    """``width / 2`` cosines, then as many sines, of frequencies 10000 ** (-j / (width / 2)).

    In float64: timesteps reach 1000, where float32 angles are off by more than a bfloat16 weight.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = timesteps.double()[..., None] * 10000.0 ** (-steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class Head(nn.Module):
    """The last normalization and linear: from tokens to the values of their patches."""

    def __init__(self, dim: int, values: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, values, dtype=torch.float32)
        self.modulation = nn.Parameter(torch.empty(1, 2, dim, dtype=torch.float32))

    def forward(
        self, x: Float[Tensor, "B steps tokens dim"], time: Float[Tensor, "B steps dim"]
    ) -> Float[Tensor, "B steps tokens values"]:
        """``time`` is the time embedding before its projection, one for each step of tokens."""
        shift, scale = (self.modulation[:, None] + time[:, :, None])[..., None, :].unbind(2)
        return self.head(modulate(self.norm(x), shift, scale))


def modulate(
    x: Float[Tensor, "B steps tokens dim"],
    shift: Float[Tensor, "B steps 1 dim"],
    scale: Float[Tensor, "B steps 1 dim"],
) -> Float[Tensor, "B steps tokens dim"]:
    """``x * (1 + scale) + shift``; one shift and scale serves all tokens of a step."""
    return torch.addcmul(shift, x, 1 + scale)
