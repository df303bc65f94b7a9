"""Makes the encoded clips that a transformer trains on, or reads them from a latent cache."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from longlive_core.sequence_parallel import BalancedSP
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.vae import WanVAE, encode_part
from longlive_recipes.configs.checked import parts_field, whole_field
from longlive_recipes.moving_shapes.attributes import MOTIONS
from longlive_recipes.moving_shapes.clips import Clip, ClipFormat, check_motions, clip
from longlive_recipes.moving_shapes.dataset import LatentClips, encode_clips
from longlive_recipes.run_record import as_plain
from longlive_recipes.training.export import find_vae, read_vae

_log = logging.getLogger(__name__)

MOST_BLOCKS = 99
"""The most blocks of a clip: each length has a seed of its own, and there are ``FRESH`` seeds
between those of training clips and of validation clips."""

FRESH = 100
"""The distance between the seeds of training and validation clips; above ``MOST_BLOCKS``."""

BATCH = 16
"""How many clips are drawn and encoded at once."""

MOST_CLIPS = 1 << 31
"""The most clips of a set: more than any memory holds. A run checks its own memory earlier."""


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """A set of clips of one length.

    Attributes:
        blocks: how many blocks each clip has.
        clips: how many clips there are.
        motions: what their motions are drawn from; a name twice is drawn twice as often.
    """

    blocks: int
    clips: int
    motions: tuple[str, ...] = MOTIONS

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
        parts_field(self, "motions", str)
        check_motions("ClipSet.motions", self.motions)

    def drawn(self, seed: int, clip_format: ClipFormat) -> list[Clip]:
        """The first clips of ``seed``, before they are pictures."""
        return [
            clip(seed, index, clip_format=clip_format, blocks=self.blocks, motions=self.motions)
            for index in range(self.clips)
        ]


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

    Where several ranks share a clip, each gets its own latent frames of every clip, and encodes
    only those, with as many before them as the VAE looks back. A cache holds whole clips, and
    serves any number of ranks.

    Args:
        one: how many clips, and of how many blocks.
        seed: the sequence of clips.
        clip_format: picture size, rate and block lengths.
        vae: the folder of a VAE, or a model's name.
        cache: a folder to keep encoded clips in, or None.
        sp: the ranks that share a clip, with the partition of these clips.
        writes: whether this rank writes the cache.
        device: where clips are encoded, and where the latents are afterwards.

    Raises:
        ValueError: the cache was made from other clips, or by another VAE.
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
    made = one.drawn(seed, clip_format)
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
    """Load a VAE, given its folder or a model's name, on the CPU and in evaluation mode."""
    return read_vae(find_vae(name))
