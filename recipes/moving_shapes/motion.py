"""Where an object is at each time: the eight motions as functions of seconds.

Lengths are fractions of the picture's side, times are seconds, angles are radians; x runs right
and y runs down. The picture is a torus: what leaves on one side enters on the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

EXTENT = 1.15
"""The distance of the farthest point of any shape from its centroid, in radii."""
RADIUS = (0.145, 0.205)
GROWN_RADIUS = (0.1, 0.25)
GROWTH_SECONDS = (2.4, 3.4)
MOVE_SPEED = (0.24, 0.42)
BOUNCE_SPEED = (0.22, 0.36)
SPIN_SPEED = (1.4, 2.6)
ORBIT_SPEED = (1.6, 2.3)
ORBIT_RADIUS = (0.16, 0.22)
DIRECTIONS = {
    "moves left": (-1.0, 0.0),
    "moves right": (1.0, 0.0),
    "moves up": (0.0, -1.0),
    "moves down": (0.0, 1.0),
}


class Pose(NamedTuple):
    """Centroid and radius of an object in sides, and its angle in radians, clockwise."""

    x: float
    y: float
    radius: float
    angle: float


class Track(NamedTuple):
    """Poses at several times: arrays with a value for each time."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True, kw_only=True)
class MotionPath:
    """One motion of an object, from a start pose on.

    Attributes:
        motion: a name of `MOTIONS`.
        start: seconds of the clip's time at which the object has `pose`.
        pose: the pose at `start`.
        velocity: sides a second to the right and down, for moving and bouncing objects.
        angular_velocity: radians a second, clockwise, for spinning and orbiting objects.
        orbit: the circle's radius in sides, for orbiting objects.
        phase: the angle of the place on the circle at `start`, for orbiting objects.
        period: seconds from the smallest to the largest radius, for growing objects.
    """

    motion: str
    start: float
    pose: Pose
    velocity: tuple[float, float] = (0.0, 0.0)
    angular_velocity: float = 0.0
    orbit: float = 0.0
    phase: float = 0.0
    period: float = 1.0

    def pose_at(self, second: float) -> Pose:
        """The pose at one second of the clip's time."""
        return Pose(*(float(values[0]) for values in self.track(np.array([second]))))

    def track(self, seconds: np.ndarray) -> Track:
        """The poses at `seconds` of the clip's time; x and y in [0, 1)."""
        t = seconds.astype(np.float64) - self.start
        still = np.zeros_like(t)
        x, y, radius, angle = (value + still for value in self.pose)
        if self.motion in DIRECTIONS:
            x, y = x + self.velocity[0] * t, y + self.velocity[1] * t
        elif self.motion == "bounces":
            margin = EXTENT * self.pose.radius
            x = _reflect(x + self.velocity[0] * t, margin)
            y = _reflect(y + self.velocity[1] * t, margin)
        elif self.motion == "spins":
            angle = angle + self.angular_velocity * t
        elif self.motion == "grows":
            low, high = GROWN_RADIUS
            grown = (radius - low) / (high - low) + t / self.period
            radius = low + (high - low) * (grown - np.floor(grown))
        else:
            along = self.phase + self.angular_velocity * t
            x = x + self.orbit * (np.cos(along) - math.cos(self.phase))
            y = y + self.orbit * (np.sin(along) - math.sin(self.phase))
        return Track(x - np.floor(x), y - np.floor(y), radius, angle)


def _reflect(position: np.ndarray, margin: float) -> np.ndarray:
    """Positions on a straight line, as reflected at both ends of [margin, 1 - margin]."""
    width = 1.0 - 2.0 * margin
    folded = np.mod(position - margin, 2.0 * width)
    return margin + np.minimum(folded, 2.0 * width - folded)


def draw_paths(
    rng: np.random.Generator, motions: Sequence[tuple[str, float]], *, away_from: Pose | None = None
) -> tuple[MotionPath, ...]:
    """Draw a path for each motion; each starts at the pose where the one before it ends.

    Args:
        rng: source of all choices.
        motions: name and start (seconds) of each motion; the pose of the first is drawn.
        away_from: where the shot before a cut ends: the first pose is at least a quarter of a
            side away from it.
    """
    while True:
        first = _first_pose(rng, motions[0][0])
        if away_from is not None and torus_distance(first, away_from) < 0.25:
            continue
        paths: list[MotionPath] = []
        for motion, start in motions:
            pose = paths[-1].pose_at(start) if paths else first
            if not _fits(pose, motion, fresh=not paths):
                break
            path = _draw_path(rng, motion, start, pose)
            if path is None:
                break
            paths.append(path)
        else:
            return tuple(paths)


def torus_distance(a: Pose, b: Pose) -> float:
    """Distance between two centroids in sides, across an edge where that is shorter."""
    dx, dy = abs(a.x - b.x), abs(a.y - b.y)
    return math.hypot(min(dx, 1.0 - dx), min(dy, 1.0 - dy))


def _first_pose(rng: np.random.Generator, motion: str) -> Pose:
    radius = rng.uniform(*(GROWN_RADIUS if motion == "grows" else RADIUS))
    margin = EXTENT * radius
    return Pose(rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin), radius, 0.0)


def _fits(pose: Pose, motion: str, *, fresh: bool) -> bool:
    """Whether `motion` may take over at `pose`: the whole object inside, of an ordinary size."""
    margin = EXTENT * (GROWN_RADIUS[1] if motion == "grows" else pose.radius)
    inside = bool(margin <= min(pose.x, pose.y) and max(pose.x, pose.y) <= 1.0 - margin)
    return inside and (fresh or RADIUS[0] <= pose.radius <= RADIUS[1])


def _draw_path(
    rng: np.random.Generator, motion: str, start: float, pose: Pose
) -> MotionPath | None:
    """Parameters of a motion from `pose`, or None where a drawn orbit leaves the picture."""
    path = MotionPath(motion=motion, start=start, pose=pose)
    sign = 1.0 if rng.random() < 0.5 else -1.0
    if motion in DIRECTIONS:
        speed = rng.uniform(*MOVE_SPEED)
        right, down = DIRECTIONS[motion]
        return replace(path, velocity=(speed * right, speed * down))
    if motion == "bounces":
        right, down = sign * rng.uniform(*BOUNCE_SPEED), rng.uniform(*BOUNCE_SPEED)
        return replace(path, velocity=(right, down if rng.random() < 0.5 else -down))
    if motion == "spins":
        return replace(path, angular_velocity=sign * rng.uniform(*SPIN_SPEED))
    if motion == "grows":
        return replace(path, period=rng.uniform(*GROWTH_SECONDS))
    margin = EXTENT * pose.radius
    orbit = float(rng.uniform(ORBIT_RADIUS[0], min(ORBIT_RADIUS[1], 0.46 - margin)))
    phase = rng.uniform(0.0, 2.0 * math.pi)
    center = (pose.x - orbit * math.cos(phase), pose.y - orbit * math.sin(phase))
    if min(center) < orbit + margin or max(center) > 1.0 - orbit - margin:
        return None
    return replace(
        path, orbit=orbit, phase=phase, angular_velocity=sign * rng.uniform(*ORBIT_SPEED)
    )
