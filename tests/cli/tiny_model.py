"""A model folder of the shipped form, too small to draw anything: for tests of all around it."""

from pathlib import Path

import torch

from longlive_models.checkpoints.folder import save_part
from longlive_models.settings import GenerationSettings, write_index
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer

FPS, SIZE = 8, (32, 48)


def write_tiny_model(folder: Path) -> Path:
    """Random weights under the usual names; frames are 32 by 48 pixels, 8 a second."""
    torch.manual_seed(0)
    text = PocketTextConfig(vocab=("a", "red", "circle"), dim=16, num_heads=2, text_len=8)
    wan = WanConfig(
        dim=32,
        ffn_dim=32,
        num_heads=2,
        num_layers=1,
        in_channels=4,
        out_channels=4,
        text_dim=text.dim,
        text_len=text.text_len,
        freq_dim=16,
    )
    vae = VAEConfig(
        encoder_dim=4,
        decoder_dim=4,
        latent_channels=4,
        dim_mult=(1, 1, 1),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        latent_mean=(0.0,) * 4,
        latent_std=(1.0,) * 4,
    )
    save_part(folder / "transformer", wan.to_dict(), WanTransformer(wan).state_dict())
    save_part(folder / "vae", vae.to_dict(), WanVAE(vae).state_dict())
    save_part(folder / "text_encoder", text.to_dict(), PocketTextEncoder(text).state_dict())
    height, width = SIZE
    write_index(folder, GenerationSettings(height=height, width=width, fps=FPS, steps=2))
    return folder
