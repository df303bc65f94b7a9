"""Assemble a model folder, as `longlive generate --model FOLDER` takes it, from trained parts."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longlive_models.checkpoints.folder import fingerprint, load_part, read_config
from longlive_models.checkpoints.hub import is_published, resolve
from longlive_models.published import find_files
from longlive_models.settings import GenerationSettings, ModelSpec, write_index
from longlive_models.text import PocketTextConfig, UMT5Config
from longlive_models.vae import WAN22_VAE, VAEConfig, WanVAE, load_vae
from longlive_models.wan import WanConfig

PARTS = ("transformer", "text_encoder", "vae")


def pack_model(
    folder: Path,
    *,
    transformer: Path,
    text_encoder: Path,
    vae: Path,
    settings: GenerationSettings,
    trained: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder`` with the three parts and their index; a part may lie there already.

    Args:
        trained: how it was trained, in plain values, for the index; the hash of the weights is
            added in any case.

    Returns:
        ``folder``.

    Raises:
        ValueError: a part is not there, or the parts do not fit each other.
    """
    sources = dict(zip(PARTS, (transformer, text_encoder, vae), strict=True))
    spec = ModelSpec(
        transformer=WanConfig.from_dict(read_config(transformer)),
        vae=VAEConfig.from_dict(read_config(vae)),
        settings=settings,
    )
    check_text(spec.transformer, PocketTextConfig.from_dict(read_config(text_encoder)))
    for name, source in sources.items():
        if source.resolve() != (folder / name).resolve():
            shutil.rmtree(folder / name, ignore_errors=True)
            _copy(source, folder / name)
    weights = fingerprint(folder)
    if trained is None:
        write_index(folder, settings, weights_sha256=weights)
    else:
        write_index(folder, settings, trained=dict(trained), weights_sha256=weights)
    return folder


def _copy(source: Path, folder: Path) -> None:
    """Copy a part's files. Raises OSError for the first that cannot be, with its name."""
    folder.mkdir(parents=True)
    for file in sorted(source.rglob("*")):
        target = folder / file.relative_to(source)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error


def check_text(transformer: WanConfig, text: PocketTextConfig | UMT5Config) -> None:
    """Raise ValueError where a transformer cannot read what a text encoder gives."""
    if text.dim != transformer.text_dim or text.text_len > transformer.text_len:
        raise ValueError(
            f"the text encoder gives {text.text_len} rows of {text.dim}, the transformer takes up "
            f"to {transformer.text_len} of {transformer.text_dim}: they cannot be one model. Use "
            f"the text encoder that was trained with it."
        )


def find_vae(name: str) -> Path:
    """Where a VAE is: a folder that ``train_vae`` wrote, that of a model by name or folder, or the
    published file of one.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    found = resolve(name)
    return find_files(found).vae if is_published(found) else found / "vae"


def vae_config(place: Path) -> VAEConfig:
    """The sizes of a VAE that ``find_vae`` found; those of a published file are known."""
    return WAN22_VAE if place.is_file() else VAEConfig.from_dict(read_config(place))


def read_vae(place: Path) -> WanVAE:
    """Load a VAE that ``find_vae`` found, on the CPU and in evaluation mode."""
    if place.is_file():
        return load_vae(place, config=WAN22_VAE)
    settings, weights = load_part(place)
    return load_vae(weights, config=VAEConfig.from_dict(settings))
