"""How blocks of latent frames become seconds, and how long a video can be. Numbers only."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from longlive_core.checks import real, whole

Number = float | int

MOST_LATENT_FRAMES = 1 << 24
"""Of a video: positions in time are float32 numbers, which are whole up to here. Weeks of video."""

_LENGTH_WHY = (
    f"positions in time are float32 numbers, so a video has {MOST_LATENT_FRAMES:,} latent frames "
    f"at most. Use a shorter length, or seconds=math.inf and stop when it is enough."
)


@dataclass(frozen=True, kw_only=True)
class BlockTiming:
    """How blocks of latent frames turn into seconds of video.

    Raises ValueError for a rate that is not above 0, and for sizes below 1.
    """

    fps: Number
    frames_per_block: int = 8
    temporal_factor: int = 4

    def __post_init__(self) -> None:
        real("fps", self.fps, above=0, why="frames are shown at a rate. Use for example 16.")
        why = "frames are decoded in whole ones. Take it from the model's configuration."
        for name in ("frames_per_block", "temporal_factor"):
            whole(name, getattr(self, name), at_least=1, why=why)

    @property
    def most_blocks(self) -> int:
        """The most blocks that a video can have."""
        return MOST_LATENT_FRAMES // self.frames_per_block

    @property
    def block_seconds(self) -> float:
        """Duration of every block but the first, which is shorter."""
        return self.frames_per_block * self.temporal_factor / self.fps

    @property
    def most_seconds(self) -> float:
        """The longest that a video can be."""
        return self.seconds(self.most_blocks)

    def frames(self, blocks: int) -> int:
        """Video frames of the first ``blocks`` blocks."""
        latent = blocks * self.frames_per_block
        return 1 + self.temporal_factor * (latent - 1) if latent else 0

    def seconds(self, blocks: int) -> float:
        """Duration of the first ``blocks`` blocks."""
        return self.frames(blocks) / self.fps

    def frames_in(self, seconds: Number) -> int:
        """Video frames nearest to ``seconds``, at least one."""
        return max(1, math.floor(self._exact_frames(seconds) + Fraction(1, 2)))

    def blocks_covering(self, frames: int) -> int:
        """The fewest blocks that give at least ``frames`` video frames."""
        latent = 1 + -(-(frames - 1) // self.temporal_factor)
        return max(1, -(-latent // self.frames_per_block))

    def blocks_nearest(self, seconds: Number, *, opening: bool) -> int:
        """Whole blocks nearest to a shot's ``seconds``, at least one; ``opening`` has block 0."""
        frames = self._exact_frames(seconds)
        lacking = self.temporal_factor - 1 if opening else 0
        block = self.frames_per_block * self.temporal_factor
        return max(1, math.floor((frames + lacking) / block + Fraction(1, 2)))

    def _exact_frames(self, seconds: Number) -> Fraction:
        """Frames in ``seconds``, of the decimal numbers as they are written: floats round halves
        either way."""
        number = float(seconds_of(seconds, at_most=self.most_seconds))
        return Fraction(repr(number)) * Fraction(repr(float(self.fps)))


def seconds_of(seconds: Any, at_most: float = math.inf) -> float:
    """A duration, if it is a number above 0 that a video can have; whole ones stay whole."""
    why = "a video has at least one frame. Use for example seconds=5."
    number = real("seconds", seconds, above=0, why=why)
    if number > at_most:
        real("seconds", seconds, at_most=at_most, why=_LENGTH_WHY)
    return seconds if type(seconds) is int else number


def blocks_of(name: str, blocks: Any, at_most: int = MOST_LATENT_FRAMES) -> int:
    """A number of blocks, if it is whole, 1 or more, and a video can have it."""
    whole(name, blocks, at_least=1, why="blocks are generated whole. Use 1 or more.")
    return whole(name, blocks, at_most=at_most, why=_LENGTH_WHY)
