"""Checks of AR training before any clip is drawn: clip lengths, first weights, memory."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from longlive_core.float8 import Float8TrainingLinear
from longlive_core.kv_cache import PlainCodec
from longlive_core.nvfp4 import NVFP4TrainingLinear
from longlive_models.checkpoints.folder import unfilled
from longlive_models.prompts.storyboard import BlockTiming
from longlive_models.settings import ModelSpec
from longlive_models.text import PocketTextConfig, UMT5Config
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.data.splits import clips_by_length, split_clips
from longlive_recipes.data.training_clips import check_cache
from longlive_recipes.moving_shapes.clips import ClipFormat
from longlive_recipes.moving_shapes.latent_cache import BATCH
from longlive_recipes.training.ar_parts import begin_with, text_part, unfilled_parts
from longlive_recipes.training.ar_results import result_of
from longlive_recipes.training.export import check_text, find_vae, vae_config
from longlive_recipes.training.fit import check_machine, check_run
from longlive_recipes.training.recycled import bank_bytes
from longlive_recipes.training.run_checks import (
    check_disk,
    check_folder,
    check_memory,
    check_not_replaced,
)

BYTES_A_WEIGHT = 20
"""In float32: the weight, its gradient, AdamW's two numbers and the average."""

PEAK_PLANES = 4
"""Float32 planes of a picture that is drawn: its colors and how much the object covers."""


def check(
    config: TrainAR,
    *,
    resume: str | None = None,
    parts: Callable[[], nn.Module] | None = None,
) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written.

    Args:
        parts: gives the parts that a checkpoint has to fit, without weights, where a recipe has
            others than AR training.
    """
    device = check_machine(config.run, config.parallel)
    spec = spec_of(config)
    check_text(config.model, config.text)
    check_clips(config.world, spec.timing, config.lengths)
    held = check_data(config, spec.timing)
    check_memory(memory_needed(config, spec, held), device)
    check_errors(config, spec)
    check_run(
        config.run,
        config,
        resume=resume,
        steps=config.budget.steps,
        parts=parts or (lambda: unfilled_parts(config)),
    )
    if config.start_from:
        check_start(config)
    if config.latent_cache:
        check_folder("latent_cache", Path(config.latent_cache))
    check_not_replaced(
        result_of(config),
        vae=config.vae,
        start_from=config.start_from,
        latent_cache=config.latent_cache,
        data=config.data,
    )
    check_backends(config, device)


def check_backends(config: TrainAR, device: torch.device) -> None:
    """Raise ``BackendUnavailable`` where products are to run on what is not there."""
    mixed = config.run.precision != "32-true"
    half = torch.float16 if config.run.precision == "16-mixed" else torch.bfloat16
    with torch.autocast(device.type, half, enabled=mixed):
        if config.quantized.quantizes:
            NVFP4TrainingLinear(64, 64, config=config.quantized, device=device).receipts()
        if config.float8.quantizes:
            Float8TrainingLinear(64, 64, config=config.float8, device=device).receipts()


def spec_of(config: TrainAR) -> ModelSpec:
    """The sizes of the model that a run trains. Raises ValueError where they do not fit."""
    vae = vae_config(find_vae(config.vae))
    return ModelSpec(transformer=config.model, vae=vae, settings=config.generation)


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


def check_own_clips(config: TrainAR) -> None:
    """Raise ValueError for a cache that is not one for a config and its phases, on any machine."""
    timing = spec_of(config).timing
    check_clips(config.world, timing, config.lengths)
    check_data(config, timing)


def check_start(config: TrainAR) -> None:
    """Raise ValueError where a run's ``start_from`` does not hold the weights to begin with."""
    assert config.start_from is not None
    with unfilled():
        model, text = WanTransformer(config.model), text_part(config)
    begin_with(model, text, config.start_from)


def check_data(config: TrainAR, timing: BlockTiming) -> dict[int, int]:
    """How many clips of each length a run holds, validation included, drawn or of a cache.

    Raises:
        ValueError: the cache is not one for this config, or has too few clips.
    """
    if config.data is None and not config.sets:
        raise ValueError(
            "this recipe trains on clips of your own, and no cache of them is named. Make one with "
            "`longlive data prepare FOLDER -o CACHE`, and name it (--data CACHE)."
        )
    if config.data is None:
        return {one.blocks: one.clips + config.validation_clips for one in config.sets}
    index = check_cache(
        Path(config.data),
        size=(config.generation.height, config.generation.width),
        timing=timing,
        text=config.text,
        vae=config.vae,
        learns=config.learns_words,
    )
    if isinstance(config.text, UMT5Config):
        for number, prompt in enumerate(config.sample_prompts):
            if prompt not in index.prompts:
                raise ValueError(
                    f"sample_prompts.{number} is no caption of the clips, and the text encoder, "
                    f"which would read it, is not part of the run: the cache has features of "
                    f"captions. Use one of them."
                )
    split = split_clips(index, config.lengths, config.validation_clips, config.least_blocks)
    return clips_by_length(split)


def memory_needed(config: TrainAR, spec: ModelSpec, held: Mapping[int, int]) -> dict[str, float]:
    """Bytes that a rank's device holds at one time at the very least, by what takes them.

    Args:
        held: how many clips of each length, as ``check_data`` gives them.
    """
    model, text, world = config.model, config.text, config.world
    layer = 8 * model.dim**2 + 2 * model.dim * model.ffn_dim
    weights = model.num_layers * layer + model.dim * (model.freq_dim + model.text_dim)
    if isinstance(text, PocketTextConfig):
        text_layer = 4 * text.dim**2 + 2 * text.dim * text.ffn_dim
        weights += text.num_layers * text_layer + len(text.vocab) * text.dim
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
        "samples (sample_seconds)": 3.0 * samples * spec.settings.height * spec.settings.width,
        "keys and values of samples (window.pages)": float(past) if samples else 0.0,
    }


def check_errors(config: TrainAR, spec: ModelSpec) -> None:
    """Raise ValueError where the errors of a machine's ranks have no room in memory or on disk."""
    rows, columns = spec.latent_size
    model, here = config.model, config.parallel.ranks // config.parallel.nodes
    block = model.frames_per_block * model.in_channels * rows * columns
    kept = here * bank_bytes(config.recycling, block)
    if config.recycling.bank.store == "memory":
        what = "errors that are kept (recycling.bank.bucket_size)"
        check_memory({what: float(kept)}, torch.device("cpu"))
    elif kept:
        check_disk("recycling.bank.store=disk", Path(config.run.output), kept)
