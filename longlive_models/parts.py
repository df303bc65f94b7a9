"""The parts of a model folder: of which class each is, how its config is read, its weights loaded.

``model_index.json`` names a class for every part, as Diffusers' does::

    "text_encoder": ["longlive_models", "PocketTextEncoder"]

``PARTS`` has a row for every class that can be named; folders that name none have
``settings.PART_CLASSES``. Another text encoder is one row more.
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
from longlive_models.text import PocketTextConfig, PocketTextEncoder, WordTokenizer
from longlive_models.vae import VAEConfig, WanVAE, load_vae
from longlive_models.wan import WanConfig


@dataclass(frozen=True, kw_only=True)
class PartClass:
    """A class that a part of a model folder may be of.

    Attributes:
        config: the dataclass of the sizes in its ``config.json``.
        load: ``(folder, config, runtime, reduce_amax)`` to the part on the CPU, with the folder's
            weights; ``reduce_amax`` is for linears whose inputs several ranks share, or None.
        counts: of a config, how many of something that has weights of its own, by the field.
        words: of a text encoder's config, what says which words it knows; None where that takes
            more than the config.
    """

    config: type
    load: Callable[[Path, Any, Runtime, ReduceAmax | None], nn.Module]
    counts: Callable[[Any], Mapping[str, int]]
    words: Callable[[Any], WordTokenizer] | None = None

    def read_config(self, folder: Path) -> Any:
        """The config in a part's folder. Raises ValueError for values that are none."""
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
        )
    },
}
"""By part and class: the folder of a part has the part's name."""


def read_classes(folder: Path) -> dict[str, PartClass]:
    """The class of every part of a model folder, as its index names it.

    Raises:
        ValueError: the index is none, or names a class that is not in ``PARTS``.
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
