"""Which of the eight motions an object shows, by rules on its place, radius and angle over time.

A motion counts only if it lasts: an object that rests for more than a quarter of the shot is
"still". An object that moves, but as none of the rules says, is "unclear".
"""

import math

import numpy as np

from longlive_recipes.moving_shapes.judge_measure import SYMMETRY
from longlive_recipes.moving_shapes.motion import DIRECTIONS

MOVING = 0.1
"""Least speed of a moving object, in sides a second."""
STRAIGHT = 0.85
"""The least distance between the ends of a straight path, as a share of the path's length."""
ALONG_AXIS = 0.35
"""Most sideways speed of a straight move, as a share of its speed."""
ORBIT_SPREAD = 0.19
"""Least spread of an orbit's speed along an axis: its median deviation, as a share of the median.
A circle has about 0.35, a bounce between straight walls none."""
ORBIT_ERROR = 0.2
"""Most distance of an orbit from its best circle, as a share of the radius."""
ORBIT_TURN = 0.8
"""Least rate at which an object goes round that circle, in radians a second."""
BOUNCE_SPREAD = 0.3
"""Most spread of a bounce's speed along an axis."""
GROWING = 0.12
"""The least growth of a growing object's radius a second, as a share of the radius."""
SPINNING = 0.6
"""Least rotation of a spinning object, in radians a second."""
RESTING = 0.25
"""The largest share of a shot's time for which an object may rest and still have a motion."""


def classify_motion(
    center: np.ndarray, radius: np.ndarray, angle: np.ndarray, shape: str, fps: float
) -> str:
    """Name the motion of a tracked object: one of `MOTIONS`, "still" or "unclear".

    Args:
        center: [frames, 2] x and y of its centroid in sides, wrapped into [0, 1).
        radius: [frames] its radius in sides.
        angle: [frames] its rotation in radians, up to the symmetry of `shape`.
        shape: a name of `SHAPES`.
        fps: frames a second.
    """
    if len(center) < 4:
        return "still"
    step = max(1, round(fps / 3))
    track = unwrap(center, 1.0)
    velocity = _rates(track, step) * fps
    speed = np.hypot(*velocity.T)
    if np.median(speed) >= MOVING:
        return "still" if _rests(speed, 0.5 * MOVING, fps) else _travel(track, velocity, fps)
    growth = _rates(np.log(np.maximum(radius, 1e-3)), step) * fps
    if np.median(growth) >= GROWING:
        return "still" if _rests(np.abs(growth), 0.4 * GROWING, fps) else "grows"
    turns = SYMMETRY[shape]
    if turns is not None:
        rate = _rates(unwrap(angle, 2 * math.pi / turns), step) * fps
        if abs(np.median(rate)) >= SPINNING:
            return "still" if _rests(np.abs(rate), 0.4 * SPINNING, fps) else "spins"
    return "still" if np.median(speed) < 0.5 * MOVING else "unclear"


def unwrap(values: np.ndarray, period: float) -> np.ndarray:
    """Undo wrapping along axis 0: whole periods are added so that neighbors differ the least."""
    return np.unwrap(values, period=period, axis=0)


def _rates(values: np.ndarray, step: int) -> np.ndarray:
    """The mean change a frame, between frames that are `step` apart."""
    step = min(step, len(values) - 1)
    return (values[step:] - values[:-step]) / step


def _rests(activity: np.ndarray, least: float, fps: float) -> bool:
    """Whether more than `RESTING` of the half-second windows have a median below `least`."""
    window = max(1, round(fps / 2))
    parts = [activity[i : i + window] for i in range(0, len(activity), window)]
    parts = [part for part in parts if len(part) == window] or [activity]
    return float(np.mean([np.median(part) < least for part in parts])) > RESTING


def _travel(track: np.ndarray, velocity: np.ndarray, fps: float) -> str:
    """Name the motion of an object that changes place."""
    mean = velocity.mean(0)
    speed = np.hypot(*velocity.T).mean()
    if np.hypot(*mean) >= STRAIGHT * speed:
        if abs(mean).min() <= ALONG_AXIS * speed:
            return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], mean)))
        return "bounces"
    along = np.abs(velocity)
    usual = np.median(along, axis=0)
    spread = float(np.mean(np.median(np.abs(along - usual), axis=0) / np.maximum(usual, 1e-6)))
    error, turned = _fit_circle(track)
    if spread >= ORBIT_SPREAD and error <= ORBIT_ERROR and turned * fps >= ORBIT_TURN:
        return "orbits"
    return "bounces" if spread < BOUNCE_SPREAD and usual.min() >= 0.5 * MOVING else "unclear"


def _fit_circle(track: np.ndarray) -> tuple[float, float]:
    """Fit a circle: root mean square distance from it in radii, and radians a frame around it."""
    system = np.column_stack((2.0 * track, np.ones(len(track))))
    x, y, rest = np.linalg.lstsq(system, np.square(track).sum(1), rcond=None)[0]
    radius = math.sqrt(max(rest + x * x + y * y, 1e-9))
    spoke = track - (x, y)
    error = np.sqrt(np.square(np.hypot(*spoke.T) - radius).mean()) / radius
    place = np.unwrap(np.arctan2(spoke[:, 1], spoke[:, 0]))
    return float(error), float(abs(place[-1] - place[0]) / (len(place) - 1))
