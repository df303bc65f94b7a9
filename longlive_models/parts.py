"""The table of classes that the parts of a model folder may have, and how each is loaded.

``model_index.json`` names a class for every part, as Diffusers' does::

    "text_encoder": ["longlive_models", "PocketTextEncoder"]

``PARTS`` has a row for every class that can be named; a folder that names none has the classes
of ``settings.PART_CLASSES``. To support another text encoder, add a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from longlive_core.checks import shown
from longlive_models.checkpoints.folder import fill, load_part, read_config, unfilled
from longlive_models.checkpoints.hub import INDEX
from longlive_models.checkpoints.nvfp4 import ReduceAmax, split_quantization
from longlive_models.documents import read_json
from longlive_models.precision import load_transformer
from longlive_models.runtime import Runtime
from longlive_models.schema import build
from longlive_models.settings import PART_CLASSES
from longlive_models.text import (
    PocketTextConfig,
    PocketTextEncoder,
    UMT5Config,
    UMT5TextEncoder,
    WordTokenizer,
    load_umt5,
)
from longlive_models.vae import VAEConfig, WanVAE, load_vae
from longlive_models.wan import WanConfig


@dataclass(frozen=True, kw_only=True)
class PartClass:
    """A class that a part of a model folder may have.

    Attributes:
        config: the dataclass for its ``config.json``.
        load: a function of ``(folder, config, runtime, reduce_amax)`` that returns the part on the
            CPU with the folder's weights; ``reduce_amax`` is for linears whose inputs several
            ranks share, or None.
        counts: a function of the config that returns, by field, how many layers (or other things
            with weights of their own) it asks for.
        words: for a text encoder, a function of the config that returns which words it knows;
            None if the config does not tell.
    """

    config: type
    load: Callable[[Path, Any, Runtime, ReduceAmax | None], nn.Module]
    counts: Callable[[Any], Mapping[str, int]]
    words: Callable[[Any], WordTokenizer] | None = None

    def read_config(self, folder: Path) -> Any:
        """Read the config in a part's folder. Raises ValueError for values that are not valid."""
        sizes = split_quantization(read_config(folder))[0]
        return build(self.config, sizes, folder / "config.json")


def _load_vae(
    folder: Path, config: VAEConfig, runtime: Runtime, reduce_amax: ReduceAmax | None
) -> WanVAE:
    return load_vae(load_part(folder)[1], config=config)


def _load_pocket_text(
    folder: Path, config: PocketTextConfig, runtime: Runtime, reduce_amax: ReduceAmax | None
) -> PocketTextEncoder:
    with unfilled():
        text = PocketTextEncoder(config)
    fill(text, load_part(folder)[1], folder)
    return text


def _load_umt5(
    folder: Path, config: UMT5Config, runtime: Runtime, reduce_amax: ReduceAmax | None
) -> UMT5TextEncoder:
    return load_umt5(load_part(folder)[1], folder / "tokenizer", config=config)


PARTS: Mapping[str, dict[str, PartClass]] = {
    "transformer": {
        "WanTransformer": PartClass(
            config=WanConfig,
            load=load_transformer,
            counts=lambda config: {"num_layers": config.num_layers},
        )
    },
    "vae": {
        "WanVAE": PartClass(
            config=VAEConfig,
            load=_load_vae,
            counts=lambda config: {
                "num_res_blocks": config.num_res_blocks,
                "dim_mult": len(config.dim_mult),
            },
        )
    },
    "text_encoder": {
        "PocketTextEncoder": PartClass(
            config=PocketTextConfig,
            load=_load_pocket_text,
            counts=lambda config: {"num_layers": config.num_layers},
            words=lambda config: WordTokenizer(config.vocab, config.text_len),
        ),
        "UMT5TextEncoder": PartClass(
            config=UMT5Config,
            load=_load_umt5,
            counts=lambda config: {"num_layers": config.num_layers},
        ),
    },
}
"""The classes by part (also the name of its folder) and class name."""


def read_classes(folder: Path) -> dict[str, PartClass]:
    """Read the class of every part of a model folder from its index.

    Raises:
        ValueError: the index cannot be read, or names a class that is not in ``PARTS``.
    """
    index = read_json(folder / INDEX, "a model's index")
    return {part: _row(folder, part, index.get(part, PART_CLASSES[part])) for part in PARTS}


def _row(folder: Path, part: str, named: Any) -> PartClass:
    rows = PARTS[part]
    own = isinstance(named, list | tuple) and len(named) == 2 and named[0] == "longlive_models"
    if not own or not isinstance(named[1], str) or named[1] not in rows:
        known = ", ".join(f'["longlive_models", "{name}"]' for name in rows)
        raise ValueError(
            f"{folder / INDEX}: {part} is {shown(named)}, and this version has {known}: the class "
            f"says how the part's files are read. Name one of these, or use the version that "
            f"wrote the folder."
        )
    return rows[named[1]]
