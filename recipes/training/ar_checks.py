"""Checks of AR training before any clip is drawn: clip lengths, first weights, memory."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from longlive_core.kv_cache import PlainCodec
from longlive_models.checkpoints.folder import fill, load_part
from longlive_models.checkpoints.nvfp4 import decode_state
from longlive_models.prompts.storyboard import BlockTiming
from longlive_models.settings import ModelSpec
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.data.splits import clips_by_length, split_clips
from longlive_recipes.data.training_clips import check_cache
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import BATCH

BYTES_A_WEIGHT = 20
"""In float32: the weight, its gradient, AdamW's two numbers and the average."""

PEAK_PLANES = 4
"""Float32 planes of a picture that is drawn: its colors and how much the object covers."""


def check_clips(clip_format: ClipFormat, timing: BlockTiming, lengths: Collection[int]) -> None:
    """Raise ValueError where drawn blocks are not as long as the blocks that a model generates."""
    for blocks in sorted({1, *lengths}):
        drawn, generated = clip_format.first_frame(blocks), timing.frames(blocks)
        if drawn != generated:
            raise ValueError(
                f"world.first_block_frames={clip_format.first_block_frames} and world.block_frames="
                f"{clip_format.block_frames} make {drawn} frames of {blocks} blocks, and the "
                f"model's blocks have {generated}: captions and cuts would be of other frames. Use "
                f"{timing.frames(1)} and {timing.frames(2) - timing.frames(1)}."
            )


def check_start(folder: Path, parts: nn.ModuleDict, names: dict[str, str]) -> None:
    """Raise ValueError where a folder does not hold the weights that parts can begin with.

    Args:
        parts: the module's parts, ``unfilled``.
        names: of each part, its folder.
    """
    for part, name in names.items():
        _, tensors = load_part(folder / name)
        module = parts[part]
        fill(module, decode_state(tensors, next(module.parameters()).dtype), folder / name)


def check_data(config: TrainAR, timing: BlockTiming) -> dict[int, int]:
    """How many clips of each length a run holds, validation included, drawn or of a cache.

    Raises:
        ValueError: the cache is not one for this config, or has too few clips.
    """
    if config.data is None:
        return {one.blocks: one.clips + config.validation_clips for one in config.sets}
    index = check_cache(
        Path(config.data),
        size=config.world.size,
        timing=timing,
        text=config.text,
        vae=config.vae,
    )
    split = split_clips(index, config.lengths, config.validation_clips)
    return clips_by_length(split)


def memory_needed(config: TrainAR, spec: ModelSpec, held: Mapping[int, int]) -> dict[str, float]:
    """Bytes that a rank's device holds at one time at the very least, by what takes them.

    Args:
        held: how many clips of each length, as ``check_data`` gives them.
    """
    model, text, world = config.model, config.text, config.world
    layer = 8 * model.dim**2 + 2 * model.dim * model.ffn_dim
    text_layer = 4 * text.dim**2 + 2 * text.dim * text.ffn_dim
    weights = model.num_layers * layer + text.num_layers * text_layer
    weights += model.dim * (model.freq_dim + model.text_dim) + len(text.vocab) * text.dim
    rows, columns = spec.latent_size
    frame = model.in_channels * rows * columns * 2
    clips = sum(count * blocks * model.frames_per_block * frame for blocks, count in held.items())
    drawn = max(
        (
            min(BATCH, max(one.clips, config.validation_clips)) * world.first_frame(one.blocks)
            for one in config.sets
            if config.data is None
        ),
        default=0,
    )
    batch = max(
        phase.batch // config.parallel.data * phase.length * model.frames_per_block
        for phase in config.phases
    )
    tokens = 2 * batch * model.tokens_per_frame(rows, columns)
    own = tokens * model.dim / config.parallel.sequence
    samples = config.sample_seconds * world.fps if config.run.samples_every else 0.0
    layout = spec.cache_layout(spec.settings.branches)
    past = layout.bytes(PlainCodec(torch.bfloat16), spec.settings.policy.capacity).total
    return {
        "weights, gradients and averages": BYTES_A_WEIGHT * weights / config.parallel.ranks,
        "encoded clips (sets.N.clips)": clips / config.parallel.sequence,
        "clips while they are drawn (world.size)": 4.0 * PEAK_PLANES * drawn * world.size**2,
        "the tokens of a step (phases.N.batch)": 4.0 * own,
        "samples (sample_seconds)": 3.0 * samples * world.size**2,
        "keys and values of samples (window.pages)": float(past) if samples else 0.0,
    }
