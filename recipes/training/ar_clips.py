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
from longlive_recipes.moving_shapes.dataset import LatentClips
from longlive_recipes.moving_shapes.latent_cache import FRESH, ClipSet, prepare_clips

Clips = dict[int, LatentClips]
Exchange = Callable[[int, int], BalancedSP]


def clips_of_run(
    config: TrainAR, exchange: Exchange, *, writes: bool, device: torch.device
) -> tuple[Clips, Clips]:
    """The clips that a run trains on and those that are held out, by their blocks.

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
        few = replace(one, clips=config.validation_clips)
        train[one.blocks] = prepare(one, config.seed + one.blocks, config.latent_cache)
        fresh[one.blocks] = prepare(few, config.seed + FRESH + one.blocks, None)
    return train, fresh


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
