"""The clips of a run: drawn and encoded, or out of a cache, this rank's frames of each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from longlive_core.sequence_parallel import BalancedSP
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.data.cache_index import read_index
from longlive_recipes.data.splits import split_clips
from longlive_recipes.data.training_clips import load_clips
from longlive_recipes.moving_shapes.dataset import LatentClips, described_clips
from longlive_recipes.moving_shapes.latent_cache import FRESH, ClipSet, prepare_clips
from longlive_recipes.training.export import find_vae, vae_config

Clips = dict[int, LatentClips]
Exchange = Callable[[int, int], BalancedSP]


def clips_of_run(
    config: TrainAR, exchange: Exchange, *, writes: bool, device: torch.device
) -> tuple[Clips, Clips]:
    """The clips that a run trains on and those that are held out, by their blocks.

    Of drawn clips that no step looks at there are prompts and cuts alone: their latents are zeros
    that take no memory. None are held out where a validation looks at none.

    Args:
        exchange: gives the exchange of a sequence of so many blocks and tokens a frame.
        writes: whether this rank writes the latent cache.
        device: where the latents are afterwards.

    Raises:
        ValueError: a cache was made from other clips, is damaged, or has too few of them.
    """
    if config.data is not None:
        return _of_cache(config, Path(config.data), exchange, device)

    def prepare(one: ClipSet, seed: int, cache: str | None) -> LatentClips:
        return prepare_clips(
            one,
            seed,
            clip_format=config.world,
            vae=config.vae,
            cache=cache,
            sp=exchange(one.blocks, 1),
            writes=writes,
            device=device,
        )

    train, fresh = {}, {}
    for one in config.sets:
        seed = config.seed + one.blocks
        if config.learns_from_clips:
            train[one.blocks] = prepare(one, seed, config.latent_cache)
        else:
            made = one.drawn(seed, config.world)
            train[one.blocks] = described_clips(made, _latent_shape(config, one.blocks), device)
        if config.validates_on_clips:
            few = replace(one, clips=config.validation_clips)
            fresh[one.blocks] = prepare(few, seed + FRESH, None)
    return train, fresh


def _latent_shape(config: TrainAR, blocks: int) -> tuple[int, int, int, int]:
    """[channels, frames, height, width] of the latents of a clip of so many blocks."""
    side = config.world.size // vae_config(find_vae(config.vae)).spatial_stride
    return config.model.in_channels, blocks * config.model.frames_per_block, side, side


def _of_cache(
    config: TrainAR, cache: Path, exchange: Exchange, device: torch.device
) -> tuple[Clips, Clips]:
    """Clips of a cache in place of drawn ones."""
    frames = config.model.frames_per_block
    split = split_clips(
        read_index(cache), config.lengths, config.validation_clips, config.least_blocks
    )
    found: tuple[Clips, Clips] = ({}, {})
    for sets, some in zip(found, (split.train, split.fresh), strict=True):
        for blocks, clips in some.items():
            whole = load_clips(cache, clips, blocks=blocks, frames_per_block=frames)
            own = exchange(blocks, 1).shard(whole.latents, 2).to(device).contiguous()
            sets[blocks] = replace(whole, latents=own)
    return found
