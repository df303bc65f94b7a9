"""The light decoder: a narrower one beside a model's VAE, trained to give the same frames.

It has a folder ``vae_light`` of its own in a model's folder: the config of the VAE that it makes
with the full one's encoder, and the weights of its decoder and of ``conv2`` before it.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longlive_core.checks import shown
from longlive_models.checkpoints.folder import (
    BESIDE,
    load_part,
    read_config,
    save_part,
    weight_files,
)
from longlive_models.vae.autoencoder import WanVAE
from longlive_models.vae.checkpoint import load_vae
from longlive_models.vae.config import VAEConfig
from longlive_models.vae.pruning import narrower, prune_decoder

FOLDER = BESIDE
PARTS = ("conv2.", "decoder.")
"""The parts that a light decoder has of its own; all others are the full VAE's."""


def find_light(model: Path) -> Path:
    """The folder of a model's light decoder; reads no weights.

    Raises:
        ValueError: the model has none, or not all of it.
    """
    folder = model / FOLDER
    if not folder.is_dir():
        raise ValueError(
            f"{model} has no light decoder: it would be in {folder}. Train one (`longlive train "
            f"vae_light_pocket` tells how) and put its folder there, or use vae='full'."
        )
    read_config(folder)
    weight_files(folder)
    return folder


def check_light(folder: Path, full: VAEConfig) -> VAEConfig:
    """The config in a light decoder's folder, which fits the full VAE's; reads no weights.

    Raises:
        ValueError: it is of another VAE.
    """
    config = VAEConfig.from_dict(read_config(folder))
    for name in (one.name for one in fields(VAEConfig) if one.name != "decoder_dim"):
        theirs, own = getattr(config, name), getattr(full, name)
        if theirs != own:
            raise ValueError(
                f"{folder} is the light decoder of another VAE: its {name} is {shown(theirs)}, and "
                f"the model's is {shown(own)}. Its latents would decode to other pictures. Train "
                f"one from this VAE, or use vae='full'."
            )
    return narrower(full, config.decoder_dim)


def with_light_decoder(full: WanVAE, folder: Path) -> WanVAE:
    """A VAE with the encoder of ``full`` and the light decoder of ``folder``, on the CPU.

    Raises:
        ValueError: it is of another VAE, or its files are not whole.
    """
    config = check_light(folder, full.config)
    _, tensors = load_part(folder)
    if strays := [name for name in tensors if not name.startswith(PARTS)]:
        raise ValueError(
            f"{folder} holds {strays[0]}, which is no part of a light decoder: it has "
            f"{' and '.join(PARTS)}* alone. Take the folder as `longlive train` wrote it."
        )
    return load_vae({**_others(full), **tensors}, config=config, dtype=full.conv2.weight.dtype)


def lighter(full: WanVAE, decoder_dim: int) -> WanVAE:
    """A VAE with the encoder of ``full`` and a decoder that is cut out of the full one.

    It is where the training of a light decoder begins; weights are shared with ``full`` where they
    are the same.
    """
    state = {**_others(full), **prune_decoder(full, decoder_dim)}
    own = full.conv2.weight
    config = narrower(full.config, decoder_dim)
    return load_vae(state, config=config, dtype=own.dtype, device=own.device)


def decoder_weights(vae: WanVAE) -> dict[str, Tensor]:
    """The weights that a light decoder has of its own, under their names in ``WanVAE``."""
    return {name: x for name, x in vae.state_dict().items() if name.startswith(PARTS)}


def save_light(vae: WanVAE, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the folder of a light decoder: the config and the weights of its own."""
    config: Mapping[str, Any] = vae.config.to_dict()
    save_part(folder, config, decoder_weights(vae), dtype=dtype)


def _others(full: WanVAE) -> dict[str, Tensor]:
    return {name: x for name, x in full.state_dict().items() if not name.startswith(PARTS)}
