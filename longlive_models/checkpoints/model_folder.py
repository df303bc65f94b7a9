"""Reading a model folder: the sizes of its model, checks of its files, and its parts."""

from pathlib import Path

from longlive_models.checkpoints.folder import check_counts, weight_files
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.nvfp4 import ReduceAmax
from longlive_models.parts import read_classes
from longlive_models.published import find_files, open_files
from longlive_models.runtime import Runtime
from longlive_models.settings import ModelSpec, read_settings
from longlive_models.text import TextEncoder, WordTokenizer
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer


def read_words(folder: Path) -> WordTokenizer | None:
    """The words that a model folder's text encoder knows; None if its config does not tell.

    Raises:
        ValueError: the config is not valid.
    """
    if is_published(folder):
        return None
    row = read_classes(folder)["text_encoder"]
    config = row.read_config(folder / "text_encoder")
    return None if row.words is None else row.words(config)


def read_spec(folder: Path, *, download: bool = False) -> ModelSpec:
    """Read the sizes and settings of a model folder; reads no weights.

    ``download`` allows fetching what a folder of published files lacks.

    Raises:
        ValueError: files are missing, which the message names, or do not fit each other.
    """
    if is_published(folder):
        return open_files(find_files(folder, download=download)).checked_spec()
    rows = read_classes(folder)
    for part in rows:
        weight_files(folder / part)
    read_words(folder)
    return ModelSpec(
        transformer=rows["transformer"].read_config(folder / "transformer"),
        vae=rows["vae"].read_config(folder / "vae"),
        settings=read_settings(folder),
    )


def check_sizes(folder: Path) -> None:
    """Raise ValueError for weight files that are incomplete or too small for their config.

    Reads headers only. Call it before a model is built, which a wrong config could make huge.
    """
    for part, row in read_classes(folder).items():
        check_counts(folder / part, row.counts(row.read_config(folder / part)))


def load_parts(
    folder: Path, runtime: Runtime, reduce_amax: ReduceAmax | None = None
) -> tuple[WanTransformer, WanVAE, TextEncoder]:
    """Load the transformer, the VAE and the text encoder of a model folder to the CPU.

    Packed linears stay packed if ``runtime`` computes with packed weights; ``reduce_amax`` is for
    linears whose inputs several ranks share.

    Raises:
        ValueError: files are incomplete, or weights do not fit their config.
    """
    check_sizes(folder)
    transformer, vae, text = (
        row.load(folder / part, row.read_config(folder / part), runtime, reduce_amax)
        for part, row in read_classes(folder).items()
    )
    assert isinstance(transformer, WanTransformer) and isinstance(vae, WanVAE)
    assert isinstance(text, TextEncoder)
    return transformer, vae, text
