"""Drift of a video: how its last part differs from its first, measured from pixels, no model.

| number | what it is |
|---|---|
| color | the mean of red, green and blue, from 0 to 1; its change is the distance of both means |
| contrast | the deviation of brightness within a frame |
| flicker | how much the brightness of whole frames turns: the mean size of its second difference |
| motion | the mean change of a pixel's brightness from frame to frame |
| edge jump | the change of a pixel at the edges of blocks, over that within blocks: 1 is no seam |

Parts are the first and the last 15 % of the frames. Frames are read one after another.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longlive_core.checks import real, whole

SHARE = 0.15
"""The share of a video that is its first part, and its last."""

BLOCK_FRAMES = 32
FIRST_BLOCK = 29
"""The frames of a block, and of the first one: of LongLive-2.0-5B, and of the pocket."""

LUMA = (0.299, 0.587, 0.114)
LEAST_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class DriftOptions:
    """What a suite of drift is told: the frames of a block, and of the first one.

    Raises ValueError for no frames, and for a share that leaves no middle.
    """

    block: int = BLOCK_FRAMES
    first_block: int = FIRST_BLOCK
    share: float = SHARE

    def __post_init__(self) -> None:
        why = "a block has frames. Use 32 and 29 for a model with blocks of 8 latents."
        whole("block", self.block, at_least=1, why=why)
        whole("first_block", self.first_block, at_least=1, why=why)
        real("share", self.share, above=0, at_most=0.5, why="a first and a last part. Use 0.15.")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Numbers of a part of a video; see the module's table."""

    color: tuple[float, float, float]
    contrast: float
    flicker: float
    motion: float


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What is measured of a video.

    Attributes:
        frames, fps: of the file.
        first, last: numbers of its first and its last part.
        color_change: the distance of the parts' mean colors; from 0 to 1.73.
        contrast_change, flicker_change, motion_change: last minus first.
        motion_ratio: last over first; None where nothing moves at first.
        edge_jump: the change at edges of blocks over that within; None without a whole edge, or
            where nothing changes.
    """

    frames: int
    fps: float
    first: Part
    last: Part
    color_change: float
    contrast_change: float
    flicker_change: float
    motion_change: float
    motion_ratio: float | None
    edge_jump: float | None


class DriftMeter:
    """Takes the frames of a video one after another, and keeps a few numbers of each."""

    def __init__(self) -> None:
        self._colors: list[np.ndarray] = []
        self._contrasts: list[float] = []
        self._changes: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """The next frame: uint8 [height, width, 3]."""
        pixels = frame.astype(np.float32) / 255
        brightness = pixels @ np.array(LUMA, np.float32)
        self._colors.append(pixels.mean((0, 1), dtype=np.float64))
        self._contrasts.append(float(brightness.std(dtype=np.float64)))
        if self._before is not None:
            self._changes.append(float(np.abs(brightness - self._before).mean(dtype=np.float64)))
        self._before = brightness

    def result(self, fps: float, options: DriftOptions | None = None) -> Drift:
        """The numbers of the frames so far. Raises ValueError for too few of them."""
        options = DriftOptions() if options is None else options
        count = len(self._colors)
        if count < LEAST_FRAMES:
            raise ValueError(
                f"a video of {count} frames has no first and last part to compare: it takes "
                f"{LEAST_FRAMES} or more."
            )
        size = max(3, math.floor(count * options.share))
        first, last = self._part(0, size), self._part(count - size, count)
        return Drift(
            frames=count,
            fps=fps,
            first=first,
            last=last,
            color_change=math.dist(first.color, last.color),
            contrast_change=last.contrast - first.contrast,
            flicker_change=last.flicker - first.flicker,
            motion_change=last.motion - first.motion,
            motion_ratio=last.motion / first.motion if first.motion else None,
            edge_jump=self._edge_jump(options),
        )

    def _part(self, start: int, stop: int) -> Part:
        colors = np.stack(self._colors[start:stop])
        brightness = colors @ np.array(LUMA)
        red, green, blue = colors.mean(0)
        return Part(
            color=(float(red), float(green), float(blue)),
            contrast=float(np.mean(self._contrasts[start:stop])),
            flicker=float(np.abs(np.diff(brightness, 2)).mean()),
            motion=float(np.mean(self._changes[start : stop - 1])),
        )

    def _edge_jump(self, options: DriftOptions) -> float | None:
        edges = set(range(options.first_block - 1, len(self._changes), options.block))
        at = [change for place, change in enumerate(self._changes) if place in edges]
        within = [change for place, change in enumerate(self._changes) if place not in edges]
        if not at or not within or not np.mean(within):
            return None
        return float(np.mean(at) / np.mean(within))


def measure(frames: Iterable[np.ndarray], fps: float, options: DriftOptions | None = None) -> Drift:
    """The drift of a video's frames, uint8 [height, width, 3] each. Raises ValueError."""
    meter = DriftMeter()
    for frame in frames:
        meter.add(frame)
    return meter.result(fps, options)


def measure_file(
    path: Path, fps: float | None = None, options: DriftOptions | None = None
) -> Drift:
    """The drift of a video file, read frame by frame, or of a folder of frames.

    Args:
        path: a file; or a folder of numbered png frames.
        fps: frames a second; None for the file's own.
        options: the frames of a block.

    Raises:
        ValueError: it cannot be read, or is too short.
    """
    from longlive_models.video.picture import open_file, open_picture  # PyAV and torch
    from longlive_models.video.timed import timed_frames, video_facts
    from longlive_recipes.moving_shapes.clip_files import read_clip

    plain = not path.is_dir()
    if plain:
        with open_file(path, "a video") as file:
            plain = open_picture(path, file) is None
    try:
        if plain:
            rate = video_facts(path).fps if fps is None else fps
            return measure((frame.show().numpy() for frame in timed_frames(path)), rate, options)
        held, rate = read_clip(path, fps)
        return measure(iter(held.numpy()), rate, options)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def worst(drifts: Sequence[Drift]) -> dict[str, float]:
    """The largest change of each kind over several videos, for a line of summary."""
    return {
        "color": max(one.color_change for one in drifts),
        "contrast": max(abs(one.contrast_change) for one in drifts),
        "flicker": max(abs(one.flicker_change) for one in drifts),
        "motion": max(abs(one.motion_change) for one in drifts),
        "edge jump": max((one.edge_jump or 0.0) for one in drifts),
    }
