"""Moving shapes: captioned clips of one coloured object, each a pure function of (seed, index).

A clip is a sequence of blocks, the units in which the model generates. It shows one shot, several
shots with scene cuts between them, or one scene in which an attribute changes where a block begins
while the object stays where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from longlive_models.prompts.storyboard import BlockTiming
from longlive_recipes.configs.checked import real_field, whole_field
from longlive_recipes.moving_shapes.attributes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    ShapeAttributes,
    Split,
    changes,
    is_in_split,
    possible_attributes,
)
from longlive_recipes.moving_shapes.captions import base_caption as base_caption
from longlive_recipes.moving_shapes.captions import caption as caption
from longlive_recipes.moving_shapes.captions import vocabulary as vocabulary
from longlive_recipes.moving_shapes.drawing import OUTLINES, paint_groups
from longlive_recipes.moving_shapes.motion import MotionPath, draw_paths

ONE_SHOT_SHARE = 0.5
"""The share of clips with one shot; half of the others have cuts, half have changes."""
MAX_EDGES = 3
"""The most cuts, or changes, that a clip has."""
MOST_SIZE = 16_384
"""The most pixels on a side: samples are written as H.264, which has no larger pictures."""
MOST_FRAMES = 4_096
"""The most pixel frames in a block: ten times what any model here makes at once."""
MOST_FPS = 1_000
"""The most frames a second: at more, a frame would last less than a millisecond."""

_BLOCKS = BlockTiming(fps=1)


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """Picture size, frame rate and block lengths of the clips that are drawn.

    Attributes:
        size: pixels on a side.
        fps: frames a second.
        first_block_frames: pixel frames of block 0 (8 latent frames, the first of one frame).
        block_frames: pixel frames of every later block.
    """

    size: int = 128
    fps: float = 12.0
    first_block_frames: int = _BLOCKS.frames(1)
    block_frames: int = _BLOCKS.frames(2) - _BLOCKS.frames(1)

    def __post_init__(self) -> None:
        for name, most in (
            ("size", MOST_SIZE),
            ("first_block_frames", MOST_FRAMES),
            ("block_frames", MOST_FRAMES),
        ):
            whole_field(
                self,
                name,
                at_least=1,
                at_most=most,
                why=f"every size is at least 1, or there is nothing to draw, and {most} is as much "
                f"as a video takes.",
            )
        real_field(
            self,
            "fps",
            above=0,
            at_most=MOST_FPS,
            why=f"there are so many frames a second, {MOST_FPS} at most. Use 12.",
        )

    def first_frame(self, block: int) -> int:
        """The first pixel frame of `block`, from 0: also the number of frames before that block."""
        return 0 if block == 0 else self.first_block_frames + (block - 1) * self.block_frames


@dataclass(frozen=True, kw_only=True)
class ClipShot:
    """Consecutive blocks of a clip with one caption.

    Attributes:
        attributes: shape, colour, background and motion.
        path: the motion's parameters.
        caption: what the text encoder is given, without the scene transition's prefix.
        first_block: the block that the shot starts with.
        blocks: how many blocks it lasts.
        cut: whether a scene cut starts it; otherwise it goes on from the shot before.
    """

    attributes: ShapeAttributes
    path: MotionPath
    caption: str
    first_block: int
    blocks: int
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A captioned clip as its shots describe it; `draw` makes its pixels.

    Attributes:
        format: picture size, frame rate and block lengths.
        shots: what the clip shows, in order, without gaps.
    """

    format: ClipFormat
    shots: tuple[ClipShot, ...]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return sum(shot.blocks for shot in self.shots)

    @property
    def frames(self) -> int:
        """Number of pixel frames."""
        return self.format.first_frame(self.blocks)

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of every block, without the scene transition's prefix."""
        return tuple(shot.caption for shot in self.shots for _ in range(shot.blocks))

    @property
    def cuts(self) -> tuple[bool, ...]:
        """For every block, whether a scene cut starts it."""
        return tuple(shot.cut and block == 0 for shot in self.shots for block in range(shot.blocks))


def clip(
    seed: int,
    index: int,
    *,
    clip_format: ClipFormat | None = None,
    blocks: int = 6,
    split: Split = "train",
    motions: Sequence[str] = MOTIONS,
) -> Clip:
    """Make clip number `index` of the endless sequence that `seed` determines.

    Args:
        seed: the sequence of clips; not negative.
        index: place in the sequence; not negative.
        clip_format: picture size, rate and block lengths; None is `ClipFormat()`.
        blocks: how many blocks the clip has, at least 1.
        split: "train" never shows a held-out pair, every shot of "heldout" does, "any" may.
        motions: what a clip's first motion, and that after each cut, is drawn from; a name that
            stands there twice is drawn twice as often.

    Raises:
        ValueError: a negative seed or index, no blocks, or an unknown split or motion.
    """
    check_motions("motions", motions)
    for name, value, least in (("seed", seed, 0), ("index", index, 0), ("blocks", blocks, 1)):
        if value < least:
            raise ValueError(
                f"{name}={value}: a clip has a {name} of at least {least}, since it is counted; "
                f"pass {least} or more"
            )
    clip_format = clip_format or ClipFormat()
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index))))
    kind = rng.random()
    edges = _draw_edges(rng, blocks) if kind >= ONE_SHOT_SHARE else (0,)
    cuts = kind >= (1.0 + ONE_SHOT_SHARE) / 2.0
    shown = _draw_all_attributes(rng, len(edges), split, motions, cuts=cuts)
    starts = [clip_format.first_frame(edge) / clip_format.fps for edge in edges]
    paths = (_cut_paths if cuts else _changing_paths)(rng, shown, starts)
    lengths = [end - edge for edge, end in zip(edges, (*edges[1:], blocks), strict=True)]
    shots = tuple(
        ClipShot(
            attributes=attributes,
            path=path,
            caption=caption(attributes, rng),
            first_block=edge,
            blocks=length,
            cut=cuts and edge > 0,
        )
        for attributes, path, edge, length in zip(shown, paths, edges, lengths, strict=True)
    )
    return Clip(format=clip_format, shots=shots)


def single_shot(
    attributes: ShapeAttributes,
    *,
    seed: int = 0,
    clip_format: ClipFormat | None = None,
    blocks: int = 2,
    split: Split = "any",
) -> Clip:
    """Make a clip of one shot that shows `attributes`, captioned by `base_caption`.

    Raises:
        ValueError: a look that cannot be seen (`is_possible`) or is not in `split`.
    """
    if not is_in_split(attributes, split):
        raise ValueError(
            f"{attributes} is not in split {split!r}: a circle or ring does not spin, a colour "
            "must stand out from its background, and held-out pairs have a split of their own; "
            "choose other attributes, or another split"
        )
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    (path,) = draw_paths(rng, [(attributes.motion, 0.0)])
    shot = ClipShot(
        attributes=attributes,
        path=path,
        caption=base_caption(attributes),
        first_block=0,
        blocks=blocks,
        cut=False,
    )
    return Clip(format=clip_format or ClipFormat(), shots=(shot,))


def _draw_edges(rng: np.random.Generator, blocks: int) -> tuple[int, ...]:
    """First blocks of the shots: 0, and one to `MAX_EDGES` later ones where there are any."""
    if blocks == 1:
        return (0,)
    count = rng.integers(1, min(MAX_EDGES, blocks - 1) + 1)
    return (0, *sorted(int(b) + 1 for b in rng.choice(blocks - 1, count, replace=False)))


def check_motions(name: str, motions: Sequence[str]) -> None:
    """Raise ValueError unless there are motions, and the world knows them all."""
    unknown = [motion for motion in motions if motion not in MOTIONS]
    if unknown or not motions:
        raise ValueError(
            f"{name} names {', '.join(map(repr, unknown)) or 'no motion'}, but what objects do is "
            f"drawn from it: give one or more of {', '.join(MOTIONS)}."
        )


def _draw_attributes(
    rng: np.random.Generator, split: Split, motions: Sequence[str]
) -> ShapeAttributes:
    choices = possible_attributes(split, motions[int(rng.integers(len(motions)))])
    while not choices:
        choices = possible_attributes(split, motions[int(rng.integers(len(motions)))])
    return choices[rng.integers(len(choices))]


def _draw_all_attributes(
    rng: np.random.Generator, count: int, split: Split, motions: Sequence[str], *, cuts: bool
) -> list[ShapeAttributes]:
    """What the shots show: a cut changes at least two of shape, colour and background."""
    shown = [_draw_attributes(rng, split, motions)]
    while len(shown) < count:
        if cuts:
            attributes = _draw_attributes(rng, split, motions)
            if sum(a != b for a, b in zip(attributes[:3], shown[-1][:3], strict=True)) < 2:
                continue
        else:
            groups = changes(split, shown[-1])
            group = groups[rng.integers(len(groups))]
            attributes = group[rng.integers(len(group))]
        shown.append(attributes)
    return shown


def _cut_paths(
    rng: np.random.Generator, shown: Sequence[ShapeAttributes], starts: Sequence[float]
) -> list[MotionPath]:
    """A path for every shot; each starts away from where the one before it ends."""
    paths: list[MotionPath] = []
    for attributes, start in zip(shown, starts, strict=True):
        before = paths[-1].pose_at(start) if paths else None
        paths.extend(draw_paths(rng, [(attributes.motion, start)], away_from=before))
    return paths


def _changing_paths(
    rng: np.random.Generator, shown: Sequence[ShapeAttributes], starts: Sequence[float]
) -> list[MotionPath]:
    """A path for every shot; it goes on through the changes that leave the motion alone."""
    motions = [(shown[0].motion, starts[0])]
    places = [0]
    for before, attributes, start in zip(shown, shown[1:], starts[1:], strict=False):
        if attributes.motion != before.motion:
            motions.append((attributes.motion, start))
        places.append(len(motions) - 1)
    paths = draw_paths(rng, motions)
    return [paths[place] for place in places]


@overload
def draw(
    clips: Sequence[Clip],
    *,
    device: str | torch.device = ...,
    objects: Literal[False] = ...,
    frames: range | None = ...,
) -> Tensor: ...


@overload
def draw(
    clips: Sequence[Clip],
    *,
    device: str | torch.device = ...,
    objects: Literal[True],
    frames: range | None = ...,
) -> tuple[Tensor, Tensor]: ...


def draw(
    clips: Sequence[Clip],
    *,
    device: str | torch.device = "cpu",
    objects: bool = False,
    frames: range | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Draw clips of one format and length.

    Args:
        clips: one or more clips.
        device: where the pixels are computed.
        objects: whether to return as well how much of each pixel the object covers.
        frames: which pixel frames to draw; None draws all.

    Returns:
        The video, float32 [clips, 3, frames, size, size] in [-1, 1]; with `objects` also the
        share of every pixel that the object covers, [clips, 1, frames, size, size] in [0, 1].

    Raises:
        ValueError: no clips, clips of different formats or lengths, or frames outside them.
    """
    shapes_of = {(each.format, each.frames) for each in clips}
    if len(shapes_of) != 1:
        raise ValueError(
            f"draw() was given clips of {len(shapes_of)} kinds (format and length): it returns one "
            "tensor, so it needs exactly one kind; draw each kind by itself"
        )
    clip_format, total = shapes_of.pop()
    shown = range(total)[:] if frames is None else frames
    if shown and not (0 <= shown[0] < total and 0 <= shown[-1] < total):
        raise ValueError(
            f"frames={shown} reach outside a clip of {total} frames: only those can be drawn; "
            f"stay within range({total})"
        )
    tables = [_table(each, np.asarray(shown, dtype=np.int64)) for each in clips]
    kinds = torch.from_numpy(np.concatenate([kind for kind, _ in tables]))
    values = torch.from_numpy(np.concatenate([row for _, row in tables])).to(device)
    pictures, covered = paint_groups(
        kinds, values[:, :5], values[:, 5:8], values[:, 8:], clip_format.size, coverage=objects
    )
    video = _as_video(pictures, len(clips))
    return (video, _as_video(covered, len(clips))) if covered is not None else video


def _as_video(pictures: Tensor, clips: int) -> Tensor:
    """[clips * frames, channels, size, size] -> [clips, channels, frames, size, size]."""
    return pictures.unflatten(0, (clips, -1)).transpose(1, 2).contiguous()


def _table(each: Clip, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every frame, the shape's number; and pose, colour and background as 11 floats."""
    kinds = np.empty(len(frames), dtype=np.int64)
    values = np.empty((len(frames), 11), dtype=np.float32)
    names = tuple(OUTLINES)
    for shot in each.shots:
        first, end = (
            each.format.first_frame(b) for b in (shot.first_block, shot.first_block + shot.blocks)
        )
        rows = (frames >= first) & (frames < end)
        pose = shot.path.track(frames[rows] / each.format.fps)
        kinds[rows] = names.index(shot.attributes.shape)
        values[rows, :5] = np.stack(
            (pose.x, pose.y, pose.radius, np.cos(pose.angle), np.sin(pose.angle)), 1
        )
        values[rows, 5:8] = np.divide(COLOURS[shot.attributes.colour], 127.5) - 1.0
        values[rows, 8:] = np.divide(BACKGROUNDS[shot.attributes.background], 127.5) - 1.0
    return kinds, values
