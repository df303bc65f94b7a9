"""The judge: says from pixels alone what a clip of moving shapes shows.

The judge names the shape, colour, background and motion of every shot, finds the cuts, and measures
how steady a shot stays. It reads neither the caption nor the numbers that a clip was drawn from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from longlive_recipes.moving_shapes.attributes import BACKGROUNDS, COLOURS, SHAPES, ShapeAttributes
from longlive_recipes.moving_shapes.judge_measure import Measurements, measure
from longlive_recipes.moving_shapes.judge_motion import classify_motion

NONE = "none"
"""Shape, colour and motion of a shot without an object."""
UNCLEAR = "unclear"
"""Shape of an object that is like none of the shapes; motion that follows none of the rules."""
LEAST_LIKENESS = 0.8
"""The least mean agreement with a shape's template at which an object is that shape."""
CUT_JUMP = (0.05, 0.045)
"""The least way that the object jumps at a cut, in sides: a fixed part, and a part a frame."""
CUT_FRAMES = 3
"""A label counts if it lasts so many frames; labels that change within so many change at once."""


@dataclass(frozen=True, kw_only=True)
class ShotVerdict:
    """What the judge says of a shot.

    Attributes:
        shape: a name of `SHAPES`, "none" without an object, or "unclear".
        colour: a name of `COLOURS`, or "none".
        background: a name of `BACKGROUNDS`.
        motion: a name of `MOTIONS`, "still", "none" without an object, or "unclear".
        present: share of the frames that show an object.
        likeness: mean agreement of the object with the best shape's template, at most 1.
        steadiness: share of the shot's seconds in which colour and shape are those of its first
            second.
        colour_drift: change of the object's colour a second, as a share of the range of a channel.
        size_drift: change of the object's radius a second, as a share of it; 0 where it grows.
    """

    shape: str
    colour: str
    background: str
    motion: str
    present: float
    likeness: float
    steadiness: float
    colour_drift: float
    size_drift: float

    @property
    def drift_per_second(self) -> float:
        """Change of the object's look a second: `colour_drift` plus `size_drift`."""
        return self.colour_drift + self.size_drift


@dataclass(frozen=True, kw_only=True)
class ClipVerdict:
    """What the judge says of a clip.

    Attributes:
        cuts: of every scene cut that was found, the first frame after it.
        shots: a verdict for every shot.
    """

    cuts: tuple[int, ...]
    shots: tuple[ShotVerdict, ...]


class Score(NamedTuple):
    """For each attribute of a shot, whether it is the expected one."""

    shape: bool
    colour: bool
    background: bool
    motion: bool


def judge_shot(frames: np.ndarray, fps: float = 12.0) -> ShotVerdict:
    """Judge a video that is one shot.

    Args:
        frames: uint8 [frames, side, side, 3].
        fps: frames a second.

    Raises:
        ValueError: frames of another type or shape, no frames, or a rate that is not above 0.
    """
    _check_rate(fps)
    return judge_measured(measure(frames), fps)


def judge_clip(
    frames: np.ndarray, fps: float = 12.0, *, starts: Sequence[int] | None = None
) -> ClipVerdict:
    """Judge a clip shot by shot.

    Args:
        frames: uint8 [frames, side, side, 3].
        fps: frames a second.
        starts: the frames at which the shots after the first one start, for clips whose caption
            changes without a cut; None splits the clip at the cuts that are found.

    Raises:
        ValueError: frames of another type or shape, no frames, a rate that is not above 0, or
            ``starts`` that do not rise strictly between 0 and the number of frames.
    """
    _check_rate(fps)
    measured = measure(frames)
    cuts = _find_cuts(measured)
    edges = [0, *(cuts if starts is None else starts), len(frames)]
    if any(first >= end for first, end in zip(edges, edges[1:], strict=False)):
        raise ValueError(
            f"starts={tuple(starts or ())} of a clip of {len(frames)} frames: they rise strictly "
            "between 0 and the clip's length, since every shot has a frame; leave out the first "
            "shot's 0"
        )
    shots = tuple(
        judge_measured(measured.at(slice(first, end)), fps)
        for first, end in zip(edges, edges[1:], strict=False)
    )
    return ClipVerdict(cuts=cuts, shots=shots)


def find_cuts(frames: np.ndarray) -> tuple[int, ...]:
    """Find scene cuts; returns the first frame after each.

    At a cut the background and the object's colour change at once, or one of them changes and the
    object jumps. Where one of them changes and the object stays in place, there is no cut.

    Args:
        frames: uint8 [frames, side, side, 3].

    Raises:
        ValueError: frames of another type or shape, or no frames.
    """
    return _find_cuts(measure(frames))


def score(verdict: ShotVerdict, expected: ShapeAttributes) -> Score:
    """Compare a verdict with what the shot should show, attribute by attribute."""
    return Score(
        shape=verdict.shape == expected.shape,
        colour=verdict.colour == expected.colour,
        background=verdict.background == expected.background,
        motion=verdict.motion == expected.motion,
    )


def _check_rate(fps: float) -> None:
    if not fps > 0:
        raise ValueError(
            f"fps={fps}: a motion has a speed only at a rate above 0; pass the video's frames a "
            "second"
        )


def judge_measured(measured: Measurements, fps: float) -> ShotVerdict:
    """A verdict on one shot that has been measured."""
    palette = np.array(list(BACKGROUNDS.values()))
    mean = np.median(measured.background, axis=0)
    background = list(BACKGROUNDS)[int(np.square(palette - mean).sum(1).argmin())]
    present = float(measured.present.mean())
    if present < 0.5:
        return ShotVerdict(
            shape=NONE,
            colour=NONE,
            background=background,
            motion=NONE,
            present=present,
            likeness=0.0,
            steadiness=0.0,
            colour_drift=0.0,
            size_drift=0.0,
        )
    seen = measured.at(measured.present)
    shape, likeness = _shape(seen)
    angle = seen.angle[:, SHAPES.index(shape)]
    motion = classify_motion(seen.center, seen.radius, angle, shape, fps)
    seconds = np.flatnonzero(measured.present) / fps
    size = np.log(seen.radius)
    return ShotVerdict(
        shape=shape if likeness >= LEAST_LIKENESS else UNCLEAR,
        colour=_colour(seen),
        background=background,
        motion=motion,
        present=present,
        likeness=likeness,
        steadiness=_steadiness(measured, fps),
        colour_drift=float(np.hypot.reduce(_slope(seconds, seen.colour / 255.0))),
        size_drift=0.0 if motion == "grows" else float(abs(_slope(seconds, size[:, None])[0])),
    )


def _shape(seen: Measurements) -> tuple[str, float]:
    """The likeliest shape and its mean likeness; only whole objects count if there are enough."""
    rows = seen.whole if seen.whole.mean() >= 0.2 else slice(None)
    means = seen.likeness[rows].mean(0)
    return SHAPES[int(means.argmax())], float(means.max())


def _colour(seen: Measurements) -> str:
    """The colour nearest to most of the object's inner pixels; every frame has the same weight."""
    shares = seen.votes / np.maximum(seen.votes.sum(1, keepdims=True), 1)
    return list(COLOURS)[int(shares.sum(0).argmax())]


def _steadiness(measured: Measurements, fps: float) -> float:
    """The share of the seconds whose colour and shape are those of the first second."""
    window = max(1, round(fps))
    seconds = [measured.at(slice(i, i + window)) for i in range(0, len(measured), window)]
    if len(seconds) > 1 and len(seconds[-1]) < window:
        seconds.pop()
    looks = []
    for part in seconds:
        seen = part.at(part.present)
        looks.append((_shape(seen)[0], _colour(seen)) if part.present.mean() >= 0.5 else None)
    return sum(look is not None and look == looks[0] for look in looks) / len(looks)


def _slope(seconds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least-squares change a second of every column."""
    centered = seconds - seconds.mean()
    spread = float(np.square(centered).sum())
    return (
        centered @ (values - values.mean(0)) / spread if spread > 0 else np.zeros(values.shape[1])
    )


def _find_cuts(measured: Measurements) -> tuple[int, ...]:
    """The first frame after each cut, from changes of the background and the object's colour."""
    palette = np.array(list(BACKGROUNDS.values()))
    nearest = np.square(measured.background[:, None] - palette).sum(2).argmin(1)
    colour = np.where(measured.present, measured.votes.argmax(1), -1)
    grounds, objects = _changes(nearest), _changes(colour)
    cuts: list[int] = []
    for last, first in sorted({*grounds, *objects}):
        if cuts and last + 1 - cuts[-1] <= CUT_FRAMES:
            continue
        both = all(
            any(min(abs(last - a), abs(first - b)) <= CUT_FRAMES for a, b in kind)
            for kind in (grounds, objects)
        )
        if both or _jumps(measured, last, first):
            cuts.append(last + 1)
    return tuple(cuts)


def _changes(labels: np.ndarray) -> list[tuple[int, int]]:
    """Of each change between labels that last: the last frame of the one, the first of the next."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    bounds = [0, *edges.tolist(), len(labels)]
    runs = [
        (first, end - 1)
        for first, end in zip(bounds, bounds[1:], strict=False)
        if end - first >= CUT_FRAMES
    ]
    return [
        (before[1], after[0])
        for before, after in zip(runs, runs[1:], strict=False)
        if labels[before[0]] != labels[after[0]]
    ]


def _jumps(measured: Measurements, last: int, first: int) -> bool:
    """Whether the object moves farther between two frames, edges wrapped, than a motion does."""
    if not (measured.present[last] and measured.present[first]):
        return False
    offset = measured.center[first] - measured.center[last]
    fixed, each = CUT_JUMP
    return math.hypot(*(offset - np.round(offset))) >= fixed + each * (first - last)
