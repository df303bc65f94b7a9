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


class Look(NamedTuple):
    """What the caption of a shot names."""

    shape: str
    colour: str
    background: str
    motion: str


def is_possible(look: Look) -> bool:
    """Whether the world can show `look`: a visible rotation and enough contrast."""
    if look.motion == "spins" and look.shape in ROUND_SHAPES:
        return False
    return math.dist(COLOURS[look.colour], BACKGROUNDS[look.background]) >= MIN_CONTRAST


def is_held_out(look: Look) -> bool:
    """Whether `look` holds a (shape, colour) or (shape, motion) pair that training never sees."""
    return (look.shape, look.colour) in HELD_OUT_COLOURS or (
        look.shape,
        look.motion,
    ) in HELD_OUT_MOTIONS


def is_in_split(look: Look, split: Split) -> bool:
    """Whether `split` may draw `look`."""
    if split not in get_args(Split):
        raise ValueError(
            f"split={split!r} is none of {get_args(Split)}: a clip is drawn from the training "
            "pairs, from the held-out pairs, or from all; pass one of them"
        )
    return is_possible(look) and (split == "any" or is_held_out(look) == (split == "heldout"))


@cache
def looks(split: Split, motion: str) -> tuple[Look, ...]:
    """Every look of `split` that shows `motion`."""
    products = itertools.product(SHAPES, COLOURS, BACKGROUNDS, (motion,))
    return tuple(look for look in map(Look._make, products) if is_in_split(look, split))


@cache
def changes(split: Split, look: Look) -> tuple[tuple[Look, ...], ...]:
    """The looks of `split` that differ from `look` in one attribute, grouped by that attribute."""
    values = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "motion": MOTIONS}
    groups = (
        tuple(
            other
            for value in names
            if (other := look._replace(**{field: value})) != look and is_in_split(other, split)
        )
        for field, names in values.items()
    )
    return tuple(group for group in groups if group)
