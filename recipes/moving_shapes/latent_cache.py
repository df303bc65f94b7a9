"""Encoded clips for training: drawn, encoded by the ranks that share them, kept in a cache."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from longlive_core.sequence_parallel import BalancedSP
from longlive_models.checkpoints.folder import fingerprint, load_part
from longlive_models.vae import VAEConfig, WanVAE, encode_part, load_vae
from longlive_recipes.configs.checked import whole_field
from longlive_recipes.moving_shapes.clips import ClipFormat, clip
from longlive_recipes.moving_shapes.dataset import LatentClips, encode_clips
from longlive_recipes.run_record import as_plain
from longlive_recipes.training.export import find_vae

_log = logging.getLogger(__name__)

MOST_BLOCKS = 99
"""Blocks of the longest clip: ``FRESH`` seeds are between training clips and validation clips, and
each length takes one."""

FRESH = 100
"""Between the seeds of training clips and of validation clips; no clip has as many blocks."""

BATCH = 16
"""Clips that are drawn and encoded at once."""

MOST_CLIPS = 1 << 31
"""More than any memory holds; what this machine's holds is asked before they are drawn."""


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """So many clips of so many blocks."""

    blocks: int
    clips: int

    def __post_init__(self) -> None:
        whole_field(
            self,
            "blocks",
            at_least=1,
            at_most=MOST_BLOCKS,
            why="clips of each length have random numbers of their own, for so many lengths. Use "
            "2 for a video of five seconds.",
        )
        whole_field(
            self,
            "clips",
            at_least=1,
            at_most=MOST_CLIPS,
            why="steps draw from so many, and all of them are held in memory. Use 1000, say.",
        )


def prepare_clips(
    one: ClipSet,
    seed: int,
    *,
    clip_format: ClipFormat,
    vae: str,
    cache: str | None,
    sp: BalancedSP,
    writes: bool,
    device: torch.device,
) -> LatentClips:
    """Draw and encode the first clips of ``seed``, or read them from the latent cache.

    A rank gets its own frames of every clip: it encodes those, and as many before them as the VAE
    looks back. A cache holds whole clips, and serves any number of ranks.

    Args:
        vae: a folder or a model's name.
        cache: a folder to keep clips in, or None.
        sp: the ranks that share a clip, with the partition of these clips.
        writes: whether this rank writes the cache.
    """
    source = {"world": as_plain(clip_format), "seed": seed}
    source |= as_plain(one) | {"vae": fingerprint(find_vae(vae))}
    folder = Path(cache) / f"blocks_{one.blocks}" if cache else None
    if folder is not None and folder.is_dir():
        _log.info("reading %d clips of %d blocks from %s", one.clips, one.blocks, folder)
        clips = LatentClips.load(folder, source, torch.device("cpu"))
        return replace(clips, latents=sp.shard(clips.latents, 2).to(device).contiguous())
    _log.info("drawing and encoding %d clips of %d blocks", one.clips, one.blocks)
    encoder = trained_vae(vae).to(device)
    encoder.channels_last_()
    made = [
        clip(seed, index, clip_format=clip_format, blocks=one.blocks) for index in range(one.clips)
    ]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        clips = encode_clips(
            lambda video: encode_part(encoder, video, sp.frames), made, device=device
        )
    if folder is not None:
        whole = replace(clips, latents=sp.gather(clips.latents, 2))
        if writes:
            whole.save(folder, source)
    return clips


def trained_vae(name: str) -> WanVAE:
    """A VAE by folder or model name, in evaluation mode, on the CPU."""
    settings, weights = load_part(find_vae(name))
    return load_vae(weights, config=VAEConfig.from_dict(settings))
