"""Conversions between blocks, latent frames, frames and seconds, and bounds on lengths."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from longlive_core.checks import real, whole

Number = float | int

MOST_LATENT_FRAMES = 1 << 24
"""The most latent frames of a video: positions in time are float32, exact for whole numbers up to
here. These are weeks of video."""

LEAST_FPS, MOST_FPS = 0.001, 1_000_000
"""The slowest and the fastest rate of a video: a file's clock can count neither slower nor faster.
"""

_LENGTH_WHY = (
    f"positions in time are float32 numbers, so a video has {MOST_LATENT_FRAMES:,} latent frames "
    f"at most. Use a shorter length, or seconds=math.inf and stop when it is enough."
)


@dataclass(frozen=True, kw_only=True)
class BlockTiming:
    """Conversions between blocks, frames and seconds for one model's sizes and frame rate.

    Raises ValueError for a rate that is not above 0, and for sizes below 1.
    """

    fps: Number
    frames_per_block: int = 8
    temporal_factor: int = 4

    def __post_init__(self) -> None:
        check_fps("fps", self.fps, why="frames are shown at a rate. Use for example 16.")
        why = "frames are decoded in whole ones. Take it from the model's configuration."
        for name in ("frames_per_block", "temporal_factor"):
            whole(name, getattr(self, name), at_least=1, why=why)

    @property
    def most_blocks(self) -> int:
        """The most blocks that a video can have."""
        return MOST_LATENT_FRAMES // self.frames_per_block

    @property
    def block_seconds(self) -> float:
        """The seconds of every block but the first, which is shorter."""
        return self.frames_per_block * self.temporal_factor / self.fps

    @property
    def most_seconds(self) -> float:
        """The length of the longest video, in seconds."""
        return self.seconds(self.most_blocks)

    def frames(self, blocks: int) -> int:
        """The number of video frames of the first ``blocks`` blocks."""
        latent = blocks * self.frames_per_block
        return 1 + self.temporal_factor * (latent - 1) if latent else 0

    def seconds(self, blocks: int) -> float:
        """The seconds of the first ``blocks`` blocks."""
        return self.frames(blocks) / self.fps

    def frames_in(self, seconds: Number) -> int:
        """The number of video frames nearest to ``seconds``, at least one."""
        return max(1, math.floor(self._exact_frames(seconds) + Fraction(1, 2)))

    def blocks_covering(self, frames: int) -> int:
        """The smallest number of blocks with at least ``frames`` video frames."""
        latent = 1 + -(-(frames - 1) // self.temporal_factor)
        return max(1, -(-latent // self.frames_per_block))

    def blocks_nearest(self, seconds: Number, *, opening: bool) -> int:
        """The number of blocks nearest to a shot's ``seconds``, at least one.

        ``opening`` says that the shot begins the video: block 0 has fewer frames than the
        others.
        """
        frames = self._exact_frames(seconds)
        lacking = self.temporal_factor - 1 if opening else 0
        block = self.frames_per_block * self.temporal_factor
        return max(1, math.floor((frames + lacking) / block + Fraction(1, 2)))

    def _exact_frames(self, seconds: Number) -> Fraction:
        """The exact number of frames in ``seconds``.

        Both numbers are taken as the decimals that they are written as: in floats, halves would
        round up or down at random.
        """
        number = float(seconds_of(seconds, at_most=self.most_seconds))
        return Fraction(repr(number)) * Fraction(repr(float(self.fps)))


def check_fps(name: str, fps: Any, *, why: str) -> float:
    """Return a rate in frames a second that a video can have, else raise ValueError."""
    return real(name, fps, above=0, at_least=LEAST_FPS, at_most=MOST_FPS, why=why)


def seconds_of(seconds: Any, at_most: float = math.inf) -> float:
    """Return a length in seconds if a video can have it, else raise ValueError; ints stay ints."""
    why = "a video has at least one frame. Use for example seconds=5."
    number = real("seconds", seconds, above=0, why=why)
    if number > at_most:
        real("seconds", seconds, at_most=at_most, why=_LENGTH_WHY)
    return seconds if type(seconds) is int else number


def blocks_of(name: str, blocks: Any, at_most: int = MOST_LATENT_FRAMES) -> int:
    """Return a number of blocks if it is an int from 1 to the most, else raise ValueError."""
    whole(name, blocks, at_least=1, why="blocks are generated whole. Use 1 or more.")
    return whole(name, blocks, at_most=at_most, why=_LENGTH_WHY)
