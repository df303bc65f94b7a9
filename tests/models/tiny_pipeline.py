"""A pipeline small enough for many videos a second, whose every weight says something."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from longlive_models import LongLivePipeline
from longlive_models.checkpoints.folder import save_part
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.settings import GenerationSettings, ModelSpec, write_index
from longlive_models.text import PocketTextConfig, PocketTextEncoder
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.wan import WanConfig, WanTransformer

FPS = 8
TEXT = PocketTextConfig(
    vocab=("a", "red", "blue", "circle", "square", "the", "scene", "transitions"),
    dim=16,
    num_heads=2,
    num_layers=1,
    ffn_dim=16,
    text_len=8,
)
SPEC = ModelSpec(
    transformer=WanConfig(
        dim=32,
        ffn_dim=32,
        num_heads=2,
        num_layers=2,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT.dim,
        text_len=TEXT.text_len,
        freq_dim=16,
        frames_per_block=2,  # blocks of 5, then 8 frames
    ),
    vae=VAEConfig(
        encoder_dim=4,
        decoder_dim=4,
        latent_channels=4,
        dim_mult=(1, 1, 1),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        latent_mean=(0.1, -0.2, 0.3, 0.0),
        latent_std=(0.5, 1.5, 1.0, 0.7),
    ),
    settings=GenerationSettings(height=32, width=32, fps=FPS, steps=2, guidance=1.5),
)


def tiny_parts(seed: int = 0) -> tuple[WanTransformer, WanVAE, PocketTextEncoder]:
    """The same random weights for the same seed; none of them zero."""
    torch.manual_seed(seed)
    parts = (WanTransformer(SPEC.transformer), WanVAE(SPEC.vae), PocketTextEncoder(TEXT))
    for part in parts:
        _stir(part)
    return parts


def _stir(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def tiny_pipeline(
    runtime: Runtime | None = None, *, seed: int = 0, **settings: object
) -> LongLivePipeline:
    """The tiny model with some settings changed."""
    return LongLivePipeline(
        *tiny_parts(seed),
        settings=replace(SPEC.settings, **settings),
        runtime=runtime or Runtime.choose(RuntimeOptions(device="cpu")),
    )


def write_tiny_folder(folder: Path) -> Path:
    """The tiny model as a model folder, in float32."""
    transformer, vae, text = tiny_parts()
    save_part(folder / "transformer", SPEC.transformer.to_dict(), transformer.state_dict())
    save_part(folder / "vae", SPEC.vae.to_dict(), vae.state_dict())
    save_part(folder / "text_encoder", TEXT.to_dict(), text.state_dict())
    write_index(folder, SPEC.settings)
    return folder
