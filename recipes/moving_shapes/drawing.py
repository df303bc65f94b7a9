"""Anti-aliased drawing of flat shapes from signed distances, in batches on any device.

A shape is a function of two tensors, the coordinates of points relative to the shape's centroid:
in radii, x to the right and y up. It returns each point's signed distance to the outline, in radii,
negative inside; near the outline it is exact, farther away it is not. Pixels are computed with
correctly rounded operations alone, so a picture does not depend on the others of its batch.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIM_WIDTH = 0.16
"""Width of the darker rim inside a shape's outline, in radii."""
RIM_SHADE = 0.22
"""How much darker the rim is, as a share of the object's brightness."""

PIXELS_PER_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 25}
"""How many pixels are drawn at once on a kind of device: what fits a CPU's cache or a GPU."""


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt() - 0.92


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.8


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    sides = math.sqrt(0.75) * x.abs() + 0.5 * y
    return torch.maximum(sides, -y) - 0.5 * 1.15


def _star(x: Tensor, y: Tensor) -> Tensor:
    """A star with a tip up: points are folded onto a tenth of it, which one line bounds."""
    tip, notch = 1.13, 0.56
    side, up = math.sin(math.pi / 5), math.cos(math.pi / 5)
    x = x.abs()
    for _ in range(2):
        beyond = (x * up - y * side).clamp(min=0.0)
        x, y = (x - beyond * (2 * up)).abs(), y + beyond * (2 * side)
    across, along = tip - notch * up, notch * side
    return (x * across + (y - tip) * along) / math.hypot(across, along)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square on its corner with a half disc on both upper sides."""
    corner = 0.79
    x, y = x.abs(), y + 0.3133 * corner
    square = (x + y.abs() - corner) * math.sqrt(0.5)
    dx, dy = x - 0.5 * corner, y - 0.5 * corner
    lobe = (dx * dx + dy * dy).sqrt() - math.sqrt(0.5) * corner
    return torch.minimum(square, lobe)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    long, short = torch.maximum(x, y), torch.minimum(x, y)
    return torch.maximum(long - 0.98, short - 0.36)


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return ((x * x + y * y).sqrt() - 0.72).abs() - 0.25


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    wide, high = 0.7, 1.13
    return (x.abs() * high + y.abs() * wide - wide * high) / math.hypot(wide, high)


OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
}


def paint(
    shape: str,
    poses: Float[Tensor, "frames 5"],
    colours: Float[Tensor, "frames 3"],
    backgrounds: Float[Tensor, "frames 3"],
    size: int,
) -> tuple[Float[Tensor, "frames 3 size size"], Float[Tensor, "frames 1 size size"]]:
    """Draw an object of one shape into every frame; what leaves at one edge enters at the other.

    Args:
        shape: a name of `OUTLINES`.
        poses: of each frame x, y and radius as fractions of the side, then cosine and sine of the
            angle, clockwise.
        colours: RGB of the object in each frame, in [-1, 1].
        backgrounds: RGB behind it in each frame, in [-1, 1].
        size: pixels on a side.

    Returns:
        The pictures in [-1, 1], and the share of every pixel that the object covers, in [0, 1].
    """
    x, y, radius, cosine, sine = (column[:, None, None] for column in poses.unbind(1))
    centers = (torch.arange(size, device=poses.device, dtype=poses.dtype) + 0.5) / size
    right, down = centers[None, None, :] - x, centers[None, :, None] - y
    right, down = (right - right.round()) / radius, (down - down.round()) / radius
    distance = OUTLINES[shape](right * cosine + down * sine, right * sine - down * cosine)
    pixels = radius * size
    coverage = (0.5 - distance * pixels).clamp(0.0, 1.0)
    rim = ((distance + RIM_WIDTH) * pixels + 0.5).clamp(0.0, 1.0) * RIM_SHADE
    painted = colours[:, :, None, None] * (1.0 - rim[:, None]) - rim[:, None]
    ground = backgrounds[:, :, None, None]
    coverage = coverage[:, None]
    return ground + (painted - ground) * coverage, coverage


def paint_groups(
    shapes: Int[Tensor, " frames"],
    poses: Float[Tensor, "frames 5"],
    colours: Float[Tensor, "frames 3"],
    backgrounds: Float[Tensor, "frames 3"],
    size: int,
    *,
    coverage: bool = False,
) -> tuple[Float[Tensor, "frames 3 size size"], Float[Tensor, "frames 1 size size"] | None]:
    """Draw frames of different shapes; those of one shape are drawn together.

    Args:
        shapes: of each frame the place of its shape in `OUTLINES`, from 0; on the CPU.
        poses: as for `paint`, on the device that draws.
        colours: as for `paint`.
        backgrounds: as for `paint`.
        size: pixels on a side.
        coverage: whether to return the coverage as well.

    Returns:
        The pictures and the coverage, as from `paint`; without `coverage`, the pictures and None.
    """
    device = poses.device
    pictures = torch.empty(len(shapes), 3, size, size, dtype=torch.float32, device=device)
    covered = (
        torch.empty(len(shapes), 1, size, size, dtype=torch.float32, device=device)
        if coverage
        else None
    )
    chunk = max(1, PIXELS_PER_CHUNK.get(device.type, 1 << 18) // size**2)
    for number, shape in enumerate(OUTLINES):
        for rows in (shapes == number).nonzero()[:, 0].split(chunk):
            rows = rows.to(device)
            picture, cover = paint(shape, poses[rows], colours[rows], backgrounds[rows], size)
            pictures[rows] = picture
            if covered is not None:
                covered[rows] = cover
    return pictures, covered
