"""The model that a run begins with: where it is, and its sizes."""

from pathlib import Path
from typing import Any

from longlive_models.checkpoints.folder import read_config
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.checkpoints.nvfp4 import split_quantization
from longlive_models.text import PocketTextConfig
from longlive_models.wan import WanConfig

TRANSFORMER, TEXT = "transformer", "text_encoder"


def find_start(name: str) -> Path:
    """The folder of the model that a run begins with: a shipped one's, or the one that is named."""
    return EMBEDDED.get(name, Path(name))


def sizes_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sizes of a model's transformer and text encoder, words included, as plain values.

    Raises:
        ValueError: there is no such model, or its files are no configs.
    """
    folder = find_start(name)
    sizes, _ = split_quantization(read_config(folder / TRANSFORMER))
    text = PocketTextConfig.from_dict(read_config(folder / TEXT))
    return WanConfig.from_dict(sizes).to_dict(), text.to_dict()
