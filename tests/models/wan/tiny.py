"""A transformer small enough for properties, with every parameter random, and inputs for it."""

import torch
from torch import Tensor

from longlive_models.wan import WanConfig, WanTransformer

TINY = WanConfig(
    dim=24,
    ffn_dim=40,
    num_heads=2,
    num_layers=2,
    in_channels=3,
    out_channels=3,
    text_dim=10,
    text_len=5,
    freq_dim=16,
    frames_per_block=2,
)
HEIGHT, WIDTH = 4, 2  # latent pixels: two tokens a frame
TOKENS = TINY.tokens_per_frame(HEIGHT, WIDTH)


def tiny_model(config: WanConfig = TINY, *, seed: int = 0, **how: object) -> WanTransformer:
    """A float64 model whose head answers something."""
    torch.manual_seed(seed)
    model = WanTransformer(config, **how).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(
    *, frames: int, batch: int = 2, segments: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, timesteps equal within a block, text."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    blocks = -(-frames // TINY.frames_per_block)
    levels = 1000 * torch.rand(batch, blocks, generator=generator, dtype=torch.float64)
    timesteps = levels.repeat_interleave(TINY.frames_per_block, dim=1)[:, :frames]
    text = normal(batch, segments, TINY.text_len, TINY.text_dim)
    return normal(batch, TINY.in_channels, frames, HEIGHT, WIDTH), timesteps, text
