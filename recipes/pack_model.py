"""Assemble a model folder, as `longlive generate --model FOLDER` takes it, from trained parts."""

import shutil
from pathlib import Path
from typing import Any

from longlive_models.folder import fingerprint, read_config
from longlive_models.hub import resolve
from longlive_models.settings import GenerationSettings, write_index
from longlive_models.text import PocketTextConfig
from longlive_models.vae import VAEConfig
from longlive_models.wan import WanConfig

PARTS = ("transformer", "text_encoder", "vae")


def pack_model(
    folder: Path,
    *,
    transformer: Path,
    text_encoder: Path,
    vae: Path,
    settings: GenerationSettings,
    **notes: Any,
) -> Path:
    """Write ``folder`` with the three parts and their index; a part may lie there already.

    Args:
        notes: plain values that say in the index where the model comes from; the hash of the
            weights is added.

    Returns:
        ``folder``.

    Raises:
        ValueError: a part is not there, or the parts do not fit each other.
    """
    sources = dict(zip(PARTS, (transformer, text_encoder, vae), strict=True))
    check_parts(
        WanConfig.from_dict(read_config(transformer)),
        PocketTextConfig.from_dict(read_config(text_encoder)),
        VAEConfig.from_dict(read_config(vae)),
    )
    for name, source in sources.items():
        if source.resolve() != (folder / name).resolve():
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(source, folder / name)
    write_index(folder, settings, **notes, weights_sha256=fingerprint(folder))
    return folder


def check_parts(transformer: WanConfig, text_encoder: PocketTextConfig, vae: VAEConfig) -> None:
    """Raise ValueError where a transformer cannot work with a text encoder or a VAE."""
    if {transformer.in_channels, transformer.out_channels} != {vae.latent_channels}:
        raise ValueError(
            f"the transformer takes {transformer.in_channels} channels and answers "
            f"{transformer.out_channels}, but the VAE's latents have {vae.latent_channels}: they "
            f"cannot be one model. Train the transformer on the latents of this VAE."
        )
    text = (text_encoder.dim, text_encoder.text_len)
    if (transformer.text_dim, transformer.text_len) != text:
        raise ValueError(
            f"the transformer reads {transformer.text_len} text tokens of {transformer.text_dim}, "
            f"but the text encoder gives {text_encoder.text_len} of {text_encoder.dim}: they "
            f"cannot be one model. Use the text encoder that was trained with it."
        )


def find_vae(name: str) -> Path:
    """The folder of a VAE: one that ``train_vae`` wrote, or that of a model by name or folder."""
    folder = Path(name)
    return folder if (folder / "config.json").is_file() else resolve(name) / "vae"
