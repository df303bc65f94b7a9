"""The attributes of the moving-shapes world: names, colours, and the pairs kept out of training."""

import itertools
import math
from functools import cache
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "heldout", "any"]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
MOTIONS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "bounces",
    "spins",
    "grows",
    "orbits",
)
COLOURS = {
    "red": (222, 32, 38),
    "green": (40, 172, 66),
    "blue": (40, 96, 240),
    "yellow": (252, 222, 40),
    "orange": (247, 128, 16),
    "purple": (132, 44, 190),
    "pink": (252, 128, 192),
    "cyan": (48, 212, 230),
    "brown": (128, 76, 36),
    "white": (250, 250, 250),
}
BACKGROUNDS = {
    "black": (10, 10, 12),
    "white": (246, 246, 246),
    "navy": (18, 28, 84),
    "gray": (124, 128, 134),
    "teal": (10, 108, 108),
    "sand": (222, 202, 160),
}

ROUND_SHAPES = ("circle", "ring")
"""Shapes whose rotation cannot be seen; they never spin."""

MIN_CONTRAST = 85.0
"""Least Euclidean distance, in 8-bit RGB, between an object's colour and its background."""

HELD_OUT_COLOURS = (
    ("circle", "purple"),
    ("square", "yellow"),
    ("triangle", "cyan"),
    ("star", "white"),
    ("heart", "green"),
    ("cross", "orange"),
    ("ring", "blue"),
    ("diamond", "pink"),
)
HELD_OUT_MOTIONS = (
    ("square", "bounces"),
    ("triangle", "grows"),
    ("star", "orbits"),
    ("heart", "moves up"),
)


class ShapeAttributes(NamedTuple):
    """What a shot shows, in the names of `SHAPES`, `COLOURS`, `BACKGROUNDS` and `MOTIONS`."""

    shape: str
    colour: str
    background: str
    motion: str


def is_possible(attributes: ShapeAttributes) -> bool:
    """Whether a shot can show `attributes`: no spinning circle or ring, and enough contrast."""
    if attributes.motion == "spins" and attributes.shape in ROUND_SHAPES:
        return False
    return math.dist(COLOURS[attributes.colour], BACKGROUNDS[attributes.background]) >= MIN_CONTRAST


def is_held_out(attributes: ShapeAttributes) -> bool:
    """Whether their (shape, colour) or (shape, motion) pair is kept out of training clips."""
    return (attributes.shape, attributes.colour) in HELD_OUT_COLOURS or (
        attributes.shape,
        attributes.motion,
    ) in HELD_OUT_MOTIONS


def is_in_split(attributes: ShapeAttributes, split: Split) -> bool:
    """Whether clips of `split` may show `attributes`.

    Args:
        attributes: what a shot would show.
        split: "train" has no held-out pair, "heldout" only looks with one, "any" has both.

    Raises:
        ValueError: an unknown split.
    """
    if split not in get_args(Split):
        raise ValueError(
            f"split={split!r} is none of {get_args(Split)}: a clip is drawn from the training "
            "pairs, from the held-out pairs, or from all; pass one of them"
        )
    return is_possible(attributes) and (
        split == "any" or is_held_out(attributes) == (split == "heldout")
    )


@cache
def possible_attributes(split: Split, motion: str) -> tuple[ShapeAttributes, ...]:
    """Every look with `motion` that clips of `split` may show; empty where there is none."""
    products = itertools.product(SHAPES, COLOURS, BACKGROUNDS, (motion,))
    return tuple(
        attributes
        for attributes in map(ShapeAttributes._make, products)
        if is_in_split(attributes, split)
    )


@cache
def changes(split: Split, attributes: ShapeAttributes) -> tuple[tuple[ShapeAttributes, ...], ...]:
    """Every look of `split` that differs from `attributes` in exactly one attribute.

    Returns:
        A group for each attribute that can change, in the order shape, colour, background, motion.
    """
    values = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "motion": MOTIONS}
    groups = (
        tuple(
            other
            for value in names
            if (other := attributes._replace(**{field: value})) != attributes
            and is_in_split(other, split)
        )
        for field, names in values.items()
    )
    return tuple(group for group in groups if group)
