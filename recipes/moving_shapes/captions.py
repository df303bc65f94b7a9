"""The grammar of moving-shapes captions: one base form, and paraphrases of it."""

import itertools
import string
from functools import cache
from typing import TypeVar

import numpy as np

from longlive_recipes.moving_shapes.attributes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    ShapeAttributes,
)

Choice = TypeVar("Choice")

SCENE_TRANSITION = "The scene transitions."
MAX_WORDS = 28
"""The most words that a caption has, those of `SCENE_TRANSITION` before it included."""

BASE_SHARE = 0.35
"""The share of captions that are the plain sentence of `base_caption`; others paraphrase it."""

SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
}
BACKGROUND_WORDS = {"gray": ("gray", "grey"), "sand": ("sand", "sandy")}

_DIRECTIONS = {
    "moves left": ("left", "to the left", "leftward", "toward the left"),
    "moves right": ("right", "to the right", "rightward", "toward the right"),
    "moves up": ("up", "upward", "upwards", "toward the top"),
    "moves down": ("down", "downward", "downwards", "toward the bottom"),
}
_MOVING = (
    ("moves", "moving"),
    ("drifts", "drifting"),
    ("slides", "sliding"),
    ("travels", "traveling"),
    ("glides", "gliding"),
    ("goes", "going"),
)
_IN_PLACE = {
    "bounces": (
        ("bounces", "bouncing"),
        ("bounces around", "bouncing around"),
        ("bounces off the edges", "bouncing off the edges"),
        ("bounces off the walls", "bouncing off the walls"),
    ),
    "spins": (
        ("spins", "spinning"),
        ("rotates", "rotating"),
        ("turns", "turning"),
        ("spins around", "spinning around"),
        ("rotates in place", "rotating in place"),
    ),
    "grows": (
        ("grows", "growing"),
        ("expands", "expanding"),
        ("gets bigger", "getting bigger"),
        ("grows larger", "growing larger"),
    ),
    "orbits": (
        ("orbits", "orbiting"),
        ("circles around", "circling around"),
        ("orbits the center", "orbiting the center"),
        ("goes round and round", "going round and round"),
    ),
}
_TEMPLATES = (
    "{object} {verb} on {ground}",
    "{object} {verb} on {ground}",
    "on {ground}, {object} {verb}",
    "{ground} with {object} that {verb}",
    "{object} that {verb} on {ground}",
    "{object} {participle} on {ground}",
    "{object} is {participle} on {ground}",
    "{object} {verb} against {ground}",
    "{object} {verb} over {ground}",
    "{object} {verb} in front of {ground}",
    "{object} {participle}, {ground}",
    "over {ground}, {object} is {participle}",
)


def base_caption(attributes: ShapeAttributes) -> str:
    """The plain caption of `attributes`, as in "a red circle moves right on a navy background"."""
    ground = _with_article(f"{attributes.background} background")
    subject = _with_article(f"{attributes.colour} {attributes.shape}")
    return f"{subject} {attributes.motion} on {ground}"


def caption(attributes: ShapeAttributes, rng: np.random.Generator) -> str:
    """A random caption of `attributes`: `base_caption`, or a paraphrase of it.

    Which of them, and the words of a paraphrase, are drawn from `rng`.
    """
    if rng.random() < BASE_SHARE:
        return base_caption(attributes)
    noun = _pick(rng, SHAPE_WORDS[attributes.shape], plain=0.7)
    ground = _pick(
        rng, BACKGROUND_WORDS.get(attributes.background, (attributes.background,)), plain=0.8
    )
    verb, participle = _pick(rng, _phrases(attributes.motion), plain=0.4)
    template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    article = rng.random()
    words = f"{attributes.colour} {noun}"
    if article < 0.75:
        words = _with_article(words)
    elif article < 0.9:
        words = f"the {words}"
    scene = f"{ground} background"
    if article < 0.9:
        scene = _with_article(scene)
    return template.format(object=words, verb=verb, participle=participle, ground=scene)


@cache
def vocabulary() -> tuple[str, ...]:
    """All words of captions and of `SCENE_TRANSITION`, as `split_words` gives them, sorted."""
    templates = (
        template.format(object="", verb="", participle="", ground="") for template in _TEMPLATES
    )
    phrases = itertools.chain.from_iterable(
        phrase for motion in MOTIONS for phrase in _phrases(motion)
    )
    synonyms = itertools.chain(*SHAPE_WORDS.values(), *BACKGROUND_WORDS.values())
    names = itertools.chain(SHAPES, COLOURS, BACKGROUNDS, ("a", "an", "the", "background"))
    texts = itertools.chain(templates, phrases, synonyms, names, (SCENE_TRANSITION,))
    return tuple(sorted({word for text in texts for word in split_words(text)}))


def split_words(text: str) -> list[str]:
    """The words of `text`, in order, in lower case and without ASCII punctuation."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()


@cache
def _phrases(motion: str) -> tuple[tuple[str, str], ...]:
    """Every way to say `motion`, as (verb, participle), the plainest first."""
    if motion in _IN_PLACE:
        return _IN_PLACE[motion]
    return tuple(
        (f"{verb} {direction}", f"{participle} {direction}")
        for (verb, participle), direction in itertools.product(_MOVING, _DIRECTIONS[motion])
    )


def _pick(rng: np.random.Generator, choices: tuple[Choice, ...], *, plain: float) -> Choice:
    """The first choice with probability `plain`, else one of all choices, each as likely."""
    return choices[0] if rng.random() < plain else choices[rng.integers(len(choices))]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
