"""What a model folder says of its model, before a weight is read."""

from pathlib import Path

from longlive_models.checkpoints.folder import check_counts, read_config, weight_files
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.nvfp4 import split_quantization
from longlive_models.published import LONGLIVE_5B, find_files
from longlive_models.schema import build
from longlive_models.settings import ModelSpec, read_settings
from longlive_models.text import PocketTextConfig, WordTokenizer
from longlive_models.vae import VAEConfig
from longlive_models.wan import WanConfig


def read_words(folder: Path) -> WordTokenizer | None:
    """What a model folder's text encoder knows; None where that takes files of its own to say.

    Raises:
        ValueError: a config that is none.
    """
    if is_published(folder):
        return None
    sizes = read_text_config(folder)
    return WordTokenizer(sizes.vocab, sizes.text_len)


def read_spec(folder: Path, *, download: bool = False) -> ModelSpec:
    """The sizes and settings of a model folder; reads no weights.

    ``download`` allows to fetch what a folder of published files lacks.

    Raises:
        ValueError: files that a model needs are not there, by name, or do not fit each other.
    """
    if is_published(folder):
        find_files(folder, download=download)
        return LONGLIVE_5B
    for part in ("transformer", "vae", "text_encoder"):
        weight_files(folder / part)
    read_words(folder)
    sizes = split_quantization(read_config(folder / "transformer"))[0]
    wan = build(WanConfig, sizes, folder / "transformer" / "config.json")
    vae = build(VAEConfig, read_config(folder / "vae"), folder / "vae" / "config.json")
    return ModelSpec(transformer=wan, vae=vae, settings=read_settings(folder))


def read_text_config(folder: Path) -> PocketTextConfig:
    """The sizes of a model folder's text encoder. Raises ValueError as ``read_spec`` does."""
    part = folder / "text_encoder"
    return build(PocketTextConfig, read_config(part), part / "config.json")


def check_sizes(folder: Path, spec: ModelSpec) -> None:
    """Raise ValueError for files of weights that are not whole, or too few for their config.

    Reads their headers alone, before a model is built of a config that no weights can fill.
    """
    check_counts(folder / "transformer", {"num_layers": spec.transformer.num_layers})
    vae = {"num_res_blocks": spec.vae.num_res_blocks, "dim_mult": len(spec.vae.dim_mult)}
    check_counts(folder / "vae", vae)
    check_counts(folder / "text_encoder", {"num_layers": read_text_config(folder).num_layers})
