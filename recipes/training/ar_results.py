"""What AR training writes: sample videos, and the model or the adapters that it made."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longlive_models.checkpoints.folder import fill, save_part
from longlive_models.checkpoints.hub import PUBLISHED_WEIGHTS
from longlive_models.layouts.depth import write_beside
from longlive_models.lora import save_lora
from longlive_models.pipeline import LongLivePipeline
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import UMT5Config
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.moving_shapes.latent_cache import trained_vae
from longlive_recipes.training.ar_parts import unfilled_parts
from longlive_recipes.training.checkpoint_files import write_whole
from longlive_recipes.training.export import find_vae, pack_model
from longlive_recipes.training.start import TEXT, TRANSFORMER

Weights = Mapping[str, Tensor]

ADAPTER = "adapter"
"""The folder of a run's adapters."""


def pipeline_of(
    config: TrainAR, model: Weights, text: Weights, options: RuntimeOptions
) -> LongLivePipeline:
    """The pipeline that users have, on a copy of a run's weights.

    Args:
        model, text: the whole weights of the two parts.
    """
    parts = filled_parts(config, model, text)
    return LongLivePipeline(
        parts[0],
        trained_vae(config.vae),
        parts[1],
        settings=config.generation,
        runtime=Runtime.choose(options),
    )


def filled_parts(config: TrainAR, model: Weights, text: Weights) -> tuple[Any, Any]:
    """Parts of their own with copies of these weights: a pipeline freezes what it is given."""
    parts = unfilled_parts(config)
    for name, whole in (("model", model), ("text", text)):
        fill(parts[name], copy.deepcopy(dict(whole)), "the module")
    return parts["model"], parts["text"]


def write_results(
    folder: Path, config: TrainAR, model: Weights, text: Weights, trained: Mapping[str, Any]
) -> None:
    """Write ``folder``, what a run made.

    Of a run that trains all weights this is a model folder: transformer and text encoder in
    bfloat16, and the VAE; where the text encoder is frozen, the transformer alone, as the published
    models have it. Of one with adapters it is theirs, in PEFT's layout.

    Args:
        model, text: the whole weights of the two parts.
        trained: how it was trained, for the model's index.
    """
    if config.adapter.rank:
        adapted, _ = filled_parts(config, model, text)
        save_lora(adapted, folder, base_model=config.start_from or "")
        return
    if isinstance(config.text, UMT5Config):
        write_published_weights(folder, model)
        wan = config.model
        write_beside(folder, wan.dim, wan.ffn_dim, wan.num_layers)
        return
    parts = folder / TRANSFORMER, folder / TEXT
    values = config.model.to_dict(), config.text.to_dict()
    for part, sizes, weights in zip(parts, values, (model, text), strict=True):
        save_part(part, sizes, weights, dtype=torch.bfloat16)
    pack_model(
        folder,
        transformer=parts[0],
        text_encoder=parts[1],
        vae=find_vae(config.vae),
        settings=config.generation,
        trained=trained,
    )


def write_published_weights(folder: Path, model: Weights) -> None:
    """Write the transformer in bfloat16 as the published models' own file has it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": x.detach().to("cpu", torch.bfloat16) for name, x in model.items()}
    write_whole({"generator": tensors}, folder / PUBLISHED_WEIGHTS[0])


def result_of(config: TrainAR) -> Path:
    """Where a run's result lies."""
    return Path(config.run.output) / (ADAPTER if config.adapter.rank else "model")
