"""VAEs small enough to check in float64, with weights that leave no path silent."""

import torch

from longlive_models.vae import VAEConfig, WanVAE


def config(
    *, temporal: tuple[bool, ...] = (True, True), dim_mult: tuple[int, ...] = (1, 2, 2)
) -> VAEConfig:
    return VAEConfig(
        encoder_dim=4,
        decoder_dim=4,
        latent_channels=3,
        dim_mult=dim_mult,
        num_res_blocks=1,
        temporal_downsample=temporal,
        latent_mean=(0.1, -0.2, 0.3),
        latent_std=(0.5, 1.5, 1.0),
    )


SAME = config()
GROWING = config(temporal=(False, True, True), dim_mult=(1, 2, 4, 4))  # the published pattern
HALF = config(temporal=(True, False))  # two frames a latent
CONFIGS = [SAME, GROWING, HALF]


def build(sizes: VAEConfig, dtype: torch.dtype = torch.float64) -> WanVAE:
    """The same random weights each time; biases and attention too, which else start at zero."""
    vae = WanVAE(sizes).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            spread = parameter[0].numel() ** -0.5
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(float(name.endswith("gamma")) + 0.5 * spread * noise)
    return vae


def random_video(sizes: VAEConfig, frames: int, *, batch: int = 1, side: int = 1) -> torch.Tensor:
    pixels = sizes.spatial_stride
    return torch.rand(batch, 3, frames, pixels, side * pixels, dtype=torch.float64) * 2 - 1


def random_latents(sizes: VAEConfig, frames: int, *, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, sizes.latent_channels, frames, 1, 2, dtype=torch.float64)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()
