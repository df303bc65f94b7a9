"""What a prompt leaves free, measured in pixels: does a student still use all of it?

A caption fixes shape, colour, background and motion. Where the object starts, how fast it moves and
how large it is are drawn anew in every clip. A student that has collapsed draws them from less than
its teacher does, which the judge's scores do not show. Here their distributions are compared:

    W1(a, b) = integral |F_a(x) - F_b(x)| dx        F: the share of videos at x or below

in the units of what is measured: sides of the picture, and sides a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from longlive_recipes.moving_shapes.judge_measure import Measurements, measure
from longlive_recipes.moving_shapes.judge_motion import unwrap

FREE = ("start_x", "start_y", "speed", "size")
"""What a caption leaves free."""


@dataclass(frozen=True, kw_only=True)
class FreeTraits:
    """What was measured of a video that its caption does not say.

    Attributes:
        start_x, start_y: the object's place in the first frame that shows it, in sides.
        speed: median speed in sides a second.
        size: median radius of a disc of the object's area, in sides.
        saturation: mean over all pixels of the span of its channels, from 0 to 1: colours that
            grow stronger as training goes on show here first.
    """

    start_x: float
    start_y: float
    speed: float
    size: float
    saturation: float


def free_traits(frames: np.ndarray, fps: float = 12.0) -> FreeTraits | None:
    """Measure a video; None if no frame shows an object.

    Args:
        frames: uint8 [frames, side, side, 3].
        fps: frames a second.

    Raises:
        ValueError: frames of another type or shape, or no frames.
    """
    return traits_of(measure(frames), frames, fps)


def traits_of(measured: Measurements, frames: np.ndarray, fps: float) -> FreeTraits | None:
    """``free_traits`` of a video that has been measured."""
    if not measured.present.any():
        return None
    seen = measured.at(measured.present)
    place = unwrap(seen.center, 1.0)
    step = max(1, min(round(fps / 3), len(place) - 1))
    moved = np.hypot(*(place[step:] - place[:-step]).T) * fps / step
    return FreeTraits(
        start_x=float(seen.center[0, 0]),
        start_y=float(seen.center[0, 1]),
        speed=float(np.median(moved)) if len(moved) else 0.0,
        size=float(np.median(seen.radius)),
        saturation=saturation(frames),
    )


def saturation(frames: np.ndarray) -> float:
    """Mean span between the largest and the smallest channel of a pixel, from 0 to 1."""
    return float((frames.max(-1).astype(np.float64) - frames.min(-1)).mean() / 255)


def coverage(
    student: Sequence[FreeTraits | None], teacher: Sequence[FreeTraits | None]
) -> dict[str, float]:
    """By name of ``FREE``, how far the student's distribution is from the teacher's.

    Videos without an object are left out; NaN where one of the two has none at all.
    """
    return {
        name: wasserstein(
            *([vars(one)[name] for one in some if one is not None] for some in (student, teacher))
        )
        for name in FREE
    }


def wasserstein(a: Sequence[float], b: Sequence[float]) -> float:
    """The 1-Wasserstein distance of two samples of numbers; NaN if one is empty."""
    if not len(a) or not len(b):
        return float("nan")
    first, second = np.sort(np.asarray(a, float)), np.sort(np.asarray(b, float))
    places = np.sort(np.concatenate((first, second)))
    shares = [np.searchsorted(one, places[:-1], "right") / len(one) for one in (first, second)]
    return float(np.abs(shares[0] - shares[1]) @ np.diff(places))


def as_values(traits: Sequence[FreeTraits | None]) -> list[list[float]]:
    """Traits as plain numbers, for a file; an empty row for a video without an object."""
    names = [one.name for one in fields(FreeTraits)]
    return [[] if one is None else [vars(one)[name] for name in names] for one in traits]


def from_values(rows: Sequence[Sequence[float]]) -> list[FreeTraits | None]:
    """What ``as_values`` was given."""
    names = [one.name for one in fields(FreeTraits)]
    return [FreeTraits(**dict(zip(names, row, strict=True))) if len(row) else None for row in rows]
