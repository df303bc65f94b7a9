"""Strips of a frame that the decoder's last stages are run on one after another. Integers only."""

from collections.abc import Iterator
from dataclasses import dataclass

from longlive_models.vae.config import VAEConfig

TILED_STAGES = 2
"""How many of the last stages run on strips: nearly all memory is theirs, and what a strip has to
see around it grows with each further one."""


@dataclass(frozen=True)
class Part:
    """Some positions of a side of ``length``."""

    places: range
    length: int


@dataclass(frozen=True)
class Tile:
    """A strip of a frame of features along its longer side.

    Attributes:
        seen: the positions that are computed.
        kept: those of them whose results do not depend on what lies outside.
        length: how many positions the whole side has.
    """

    seen: range
    kept: range
    length: int

    @property
    def seen_in_whole(self) -> Part:
        """The strip in the frame."""
        return Part(self.seen, self.length)

    @property
    def kept_in_whole(self) -> Part:
        """What the strip makes of the frame."""
        return Part(self.kept, self.length)

    @property
    def kept_in_seen(self) -> Part:
        """The same in the strip."""
        low = self.kept.start - self.seen.start
        return Part(range(low, low + len(self.kept)), len(self.seen))


def first_tiled_stage(config: VAEConfig) -> int:
    """The first of the decoder's stages that runs on strips."""
    return max(0, len(config.dim_mult) - TILED_STAGES)


def halo_of(config: VAEConfig) -> int:
    """How many positions around its own a result depends on, before the first tiled stage.

    Two for each residual block, one for the head; an upsampling's convolution sees one of its
    output's, which are half as wide.
    """
    stages = len(config.dim_mult)
    halo = 1
    for stage in reversed(range(first_tiled_stage(config), stages)):
        if stage < stages - 1:
            halo = (halo + 2) // 2
        halo += 2 * (config.num_res_blocks + 1)
    return halo


def check_tiles(config: VAEConfig, latent_size: tuple[int, int], count: int) -> None:
    """Raise ValueError if latents of this height and width cannot be decoded on ``count`` tiles."""
    length = max(latent_size) * 2 ** first_tiled_stage(config)
    if count > length:
        raise ValueError(
            f"vae_tiles={count} are more than the {length} positions that the decoder has along "
            f"the longer side of a frame where its tiles begin: each has one at least. Use "
            f"{length} or fewer."
        )


def tiles_of(length: int, count: int, halo: int) -> Iterator[Tile]:
    """``count`` strips of a side of ``length`` positions, as equal as can be."""
    for i in range(count):
        kept = range(i * length // count, (i + 1) * length // count)
        seen = range(max(0, kept.start - halo), min(length, kept.stop + halo))
        yield Tile(seen, kept, length)
