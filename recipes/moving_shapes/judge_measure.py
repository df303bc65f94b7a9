"""What the judge measures in each frame: background, object, colour, shape and angle.

The background is the frame's median colour, and the object is the pixels that differ from it.
Opposite edges of the picture are joined (a torus), so an object that crosses an edge is one object.
Its shape is the one that agrees best with it when drawn at the same place and size, and measured
the same way.
"""

import math
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from longlive_recipes.moving_shapes.attributes import COLOURS
from longlive_recipes.moving_shapes.drawing import RIM_SHADE, paint

SYMMETRY = {
    "circle": None,
    "square": 4,
    "triangle": 3,
    "star": 5,
    "heart": 1,
    "cross": 4,
    "ring": None,
    "diamond": 2,
}
"""How often a shape looks the same within a full turn; None: always. In the order of `SHAPES`."""

LEAST_DISTANCE = 28.0
"""The least distance in 8-bit RGB between a pixel of an object and the background."""
CONTRAST_AREA = 0.015
"""The object's contrast: the distance from the background that this share of pixels exceeds."""
EDGE_SHARE = 0.38
"""The share of that contrast above which a pixel belongs to the object."""
LEAST_AREA = 0.005
"""The least share of the picture that an object covers; less than this is no object."""
REACH = 0.34
"""How far from its centroid, along one axis, an object's pixels may lie, in sides."""

_PATCH = 32
_PATCH_REACH = 1.8
_TEMPLATE_STEP = math.radians(5.0)
_FRAMES_PER_CHUNK = 48


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured in a video: arrays with a row for each frame.

    Attributes:
        background: [frames, 3] colour, 0 to 255.
        present: [frames] whether there is an object; where there is none, the arrays below mean
            nothing.
        whole: [frames] whether the object lies inside the picture and touches none of its edges.
        center: [frames, 2] x and y in sides, in [0, 1).
        radius: [frames] radius of a disc with the object's area, in sides.
        colour: [frames, 3] mean RGB of the object's inner pixels, 0 to 255.
        votes: [frames, 10] how many inner pixels are nearest to each of `COLOURS`.
        likeness: [frames, 8] best agreement with each of `SHAPES` over rotations, at most 1.
        angle: [frames, 8] the rotation at which each shape agrees best, in radians, clockwise.
    """

    background: np.ndarray
    present: np.ndarray
    whole: np.ndarray
    center: np.ndarray
    radius: np.ndarray
    colour: np.ndarray
    votes: np.ndarray
    likeness: np.ndarray
    angle: np.ndarray

    def __len__(self) -> int:
        return len(self.present)

    def at(self, frames: slice | np.ndarray) -> "Measurements":
        """The measurements of the frames that a slice, an index array or a boolean array picks."""
        return Measurements(**{f.name: vars(self)[f.name][frames] for f in fields(self)})


def measure(frames: np.ndarray) -> Measurements:
    """Measure a video, every frame independently of the others.

    Args:
        frames: uint8 [frames, side, side, 3].

    Raises:
        ValueError: frames of another type or shape, or no frames.
    """
    square = frames.ndim == 4 and frames.shape[1] == frames.shape[2] and frames.shape[3] == 3
    if frames.dtype != np.uint8 or not square or not len(frames):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}: the judge measures uint8 pictures "
            "[frames, side, side, 3], since its distances are in 8-bit colour and in sides; "
            "convert or crop them"
        )
    stride = max(1, frames.shape[1] // 128)
    chunks = []
    for start in range(0, len(frames), _FRAMES_PER_CHUNK):
        chunk = np.ascontiguousarray(frames[start : start + _FRAMES_PER_CHUNK, ::stride, ::stride])
        chunks.append(_measure_chunk(torch.from_numpy(chunk).permute(0, 3, 1, 2).float()))
    return Measurements(
        **{
            f.name: np.concatenate([vars(chunk)[f.name] for chunk in chunks])
            for f in fields(Measurements)
        }
    )


def _measure_chunk(pixels: Tensor) -> Measurements:
    background = pixels[:, :, ::2, ::2].flatten(2).median(dim=2).values
    distance = (pixels - background[:, :, None, None]).square_().sum(1).sqrt_()
    flat = distance.flatten(1)
    contrast = flat.topk(math.ceil(CONTRAST_AREA * flat.shape[1])).values[:, -1]
    mask = distance > (EDGE_SHARE * contrast).clamp(min=LEAST_DISTANCE)[:, None, None]
    soft = _smooth(mask.float())
    mask = soft > 0.5
    center = _circular_center(mask)
    near = [(_offsets(mask.shape[-1], center[:, axis]).abs() <= REACH) for axis in (0, 1)]
    within = near[1][:, :, None] & near[0][:, None, :]
    mask, soft = mask & within, soft * within
    center = _mean_center(mask, center)
    area = mask.float().mean((1, 2))
    radius = (area / math.pi).sqrt()
    edge = mask[:, 0].any(1) | mask[:, -1].any(1) | mask[:, :, 0].any(1) | mask[:, :, -1].any(1)
    votes, colour = _colours(pixels, mask)
    likeness, angle = _compare(_patches(soft, center, radius))
    return Measurements(
        background=background.numpy(),
        present=(area >= LEAST_AREA).numpy(),
        whole=(~edge).numpy(),
        center=center.numpy(),
        radius=radius.numpy(),
        colour=colour.numpy(),
        votes=votes.numpy(),
        likeness=likeness.numpy(),
        angle=angle.numpy(),
    )


def _smooth(image: Tensor) -> Tensor:
    """Mean over 3x3 pixels of the torus."""
    for axis in (1, 2):
        image = image + image.roll(1, axis) + image.roll(-1, axis)
    return image / 9.0


def _eroded(mask: Tensor) -> Tensor:
    """Pixels whose 5x5 neighbors on the torus all belong to the mask."""
    for axis in (1, 2, 1, 2):
        mask = mask & mask.roll(1, axis) & mask.roll(-1, axis)
    return mask


def _offsets(size: int, center: Tensor) -> Tensor:
    """[frames, size] distance of every pixel center from `center` along one axis of the torus."""
    offset = (torch.arange(size, dtype=torch.float32, device="cpu") + 0.5) / size - center[:, None]
    return offset - offset.round()


def _circular_center(mask: Tensor) -> Tensor:
    """[frames, 2] x and y of the mean direction of the mask's pixels on the torus."""
    turn = (
        2
        * math.pi
        * (torch.arange(mask.shape[-1], dtype=torch.float32, device="cpu") + 0.5)
        / mask.shape[-1]
    )
    table = torch.stack((turn.cos(), turn.sin()), 1)
    axes = [mask.float().sum(axis) @ table for axis in (1, 2)]
    angles = torch.stack([torch.atan2(each[:, 1], each[:, 0]) for each in axes], 1)
    return torch.remainder(angles / (2 * math.pi), 1.0)


def _mean_center(mask: Tensor, near: Tensor) -> Tensor:
    """[frames, 2] mean place of the mask's pixels, on the torus cut opposite to `near`."""
    count = mask.sum((1, 2)).clamp(min=1)
    shifts = [
        (mask.float().sum(1 + axis) * _offsets(mask.shape[-1], near[:, axis])).sum(1) / count
        for axis in (0, 1)
    ]
    return torch.remainder(near + torch.stack(shifts, 1), 1.0)


def _colours(pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Votes of the object's inner pixels for the palette, and their mean colour."""
    inner = _eroded(mask)
    thin = inner.sum((1, 2)) < 0.2 * mask.sum((1, 2))
    inner = torch.where(thin[:, None, None], mask, inner)
    frame = inner.nonzero()[:, 0]
    picked = pixels.permute(0, 2, 3, 1)[inner]
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32, device="cpu")
    palette = torch.cat((palette, palette * (1.0 - RIM_SHADE)))
    nearest = torch.cdist(picked, palette).argmin(1) % len(COLOURS)
    votes = torch.bincount(frame * len(COLOURS) + nearest, minlength=len(mask) * len(COLOURS))
    sums = torch.zeros(len(mask), 3, dtype=torch.float32, device="cpu").index_add_(0, frame, picked)
    return votes.unflatten(0, (len(mask), -1)), sums / inner.sum((1, 2)).clamp(min=1)[:, None]


def _patches(soft: Tensor, center: Tensor, radius: Tensor) -> Tensor:
    """[frames, pixels] the object's share of pixels, centered and scaled to one area."""
    size = soft.shape[-1]
    half = size // 2
    padded = functional.pad(soft[:, None], (half, half, half, half), "circular")
    steps = torch.linspace(-_PATCH_REACH, _PATCH_REACH, _PATCH, dtype=torch.float32, device="cpu")
    places = (center[:, :, None] + radius[:, None, None] * steps) * size + half
    places = places / (size + 2 * half) * 2.0 - 1.0
    grid = torch.stack(
        (
            places[:, 0, None, :].expand(-1, _PATCH, -1),
            places[:, 1, :, None].expand(-1, -1, _PATCH),
        ),
        dim=-1,
    )
    return functional.grid_sample(padded, grid, align_corners=False).flatten(1)


@cache
def _templates() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Patches of every shape at every rotation, [templates, pixels]; and each shape's angles."""
    patches, angles = [], []
    for shape, turns in SYMMETRY.items():
        period = 2 * math.pi / turns if turns else _TEMPLATE_STEP
        turned = (
            torch.arange(round(period / _TEMPLATE_STEP), dtype=torch.float32, device="cpu")
            * _TEMPLATE_STEP
        )
        half = torch.full_like(turned, 0.5)
        poses = torch.stack((half, half, torch.full_like(turned, 0.18), turned.cos(), turned.sin()))
        ground = torch.zeros(len(turned), 3, dtype=torch.float32, device="cpu")
        _, coverage = paint(shape, poses.T.contiguous(), ground, ground, 128)
        soft = _smooth(coverage[:, 0])
        mask = soft > 0.5
        center = _mean_center(
            mask, torch.full((len(turned), 2), 0.5, dtype=torch.float32, device="cpu")
        )
        patches.append(_patches(soft, center, (mask.float().mean((1, 2)) / math.pi).sqrt()))
        angles.append(turned)
    return torch.cat(patches), tuple(angles)


def _compare(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Best agreement with every shape over its rotations, and the rotation."""
    templates, angles = _templates()
    energy = patches.square().sum(1)[:, None] + templates.square().sum(1)[None, :]
    agreement = 2.0 * (patches @ templates.T) / energy.clamp(min=1e-6)
    best = [part.max(1) for part in agreement.split([len(each) for each in angles], dim=1)]
    likeness = torch.stack([part.values for part in best], 1)
    angle = torch.stack(
        [each[part.indices] for each, part in zip(angles, best, strict=True)], dim=1
    )
    return likeness, angle
