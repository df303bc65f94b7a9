"""Shots, storyboards, and which prompt, cut and time offset each block has. Integers only.

A block is what the model generates at once: ``frames_per_block`` latent frames. The first latent
frame of a video decodes to one frame, every later one to ``temporal_factor`` frames, so block 0
gives fewer frames than the others (29 and 32 at the usual sizes).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

from longlive_models.keys import refuse_unknown_keys

SCENE_CUT_PREFIX = "The scene transitions. "
"""What the first block's prompt of every shot but the first starts with: models are trained on it.
See LongLive-2.0 (arXiv 2605.18739), multi-shot generation."""

SHOT_OFFSET = 8.0
"""Latent frames by which each cut moves the temporal positions of what follows it."""

Number = float | int


@dataclass(frozen=True, kw_only=True)
class BlockTiming:
    """How blocks of latent frames turn into seconds of video."""

    fps: Number
    frames_per_block: int = 8
    temporal_factor: int = 4

    def frames(self, blocks: int) -> int:
        """Video frames of the first ``blocks`` blocks."""
        latent = blocks * self.frames_per_block
        return 1 + self.temporal_factor * (latent - 1) if latent else 0

    def seconds(self, blocks: int) -> float:
        """Duration of the first ``blocks`` blocks."""
        return self.frames(blocks) / self.fps

    def frames_in(self, seconds: Number) -> int:
        """Video frames nearest to ``seconds``, at least one."""
        return max(1, math.floor(self._exact_frames(seconds) + Fraction(1, 2)))

    def blocks_covering(self, frames: int) -> int:
        """The fewest blocks that give at least ``frames`` video frames."""
        latent = 1 + -(-(frames - 1) // self.temporal_factor)
        return max(1, -(-latent // self.frames_per_block))

    def blocks_nearest(self, seconds: Number, *, opening: bool) -> int:
        """Whole blocks nearest to a shot's ``seconds``, at least one; ``opening`` has block 0."""
        frames = self._exact_frames(seconds)
        lacking = self.temporal_factor - 1 if opening else 0
        block = self.frames_per_block * self.temporal_factor
        return max(1, math.floor((frames + lacking) / block + Fraction(1, 2)))

    def _exact_frames(self, seconds: Number) -> Fraction:
        """Frames in ``seconds``, of the decimal numbers as they are written: floats round halves
        either way."""
        _positive_seconds(seconds)
        return Fraction(repr(float(seconds))) * Fraction(repr(float(self.fps)))


@dataclass(frozen=True, kw_only=True)
class BlockPrompt:
    """What a block is generated with.

    ``text`` has the scene-cut prefix where ``cut`` is true; ``offset`` is added to the temporal
    positions of the block's latent frames. ``recache``: the pages that the block sees are first
    encoded again under its text. ``forget``: a cut that drops the history before what is kept of
    its block is encoded.
    """

    text: str
    shot: int
    cut: bool
    offset: float
    recache: bool = False
    forget: bool = False


@runtime_checkable
class PromptSchedule(Protocol):
    """Which prompt each block has, asked for in order, one block at a time."""

    def block(self, index: int) -> BlockPrompt:
        """The prompt of block ``index``, from 0."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One prompt and how long it is shown: ``seconds``, ``blocks``, or a fair share of the rest.

    Raises ValueError for an empty prompt, a length that is not positive, or two lengths.
    """

    prompt: str
    seconds: Number | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        _require_shot(self.prompt, self.seconds, self.blocks)

    @classmethod
    def of(cls, value: Any) -> "Shot":
        """A shot from its prompt, from ``{"prompt", "seconds" or "blocks"}``, or as it is."""
        if isinstance(value, Shot):
            return value
        if isinstance(value, str):
            return cls(prompt=value)
        if not isinstance(value, Mapping):
            raise ValueError(
                f"a shot is a prompt or an object with the key 'prompt', got {value!r}: there is "
                f'nothing to show. Write {{"prompt": "...", "seconds": 5}}.'
            )
        refuse_unknown_keys("a shot", value, ("prompt", "seconds", "blocks"))
        if "prompt" not in value:
            raise ValueError(
                f"a shot needs the key 'prompt', got {sorted(value)}: there is nothing to show. "
                f'Write {{"prompt": "...", "seconds": 5}}.'
            )
        _require_shot(value["prompt"], value.get("seconds"), value.get("blocks"))
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class Storyboard:
    """Shots in order, with a cut between each two."""

    shots: tuple[Shot, ...]

    def __post_init__(self) -> None:
        if not self.shots:
            raise ValueError(
                "a storyboard needs at least one shot, got none: there is nothing to show. "
                "Add a prompt."
            )

    @classmethod
    def of(cls, value: Any) -> "Storyboard":
        """A storyboard from a prompt, a list of shots, or ``{"shots": [...]}``."""
        if isinstance(value, Storyboard):
            return value
        if isinstance(value, str | Shot):
            return cls(shots=(Shot.of(value),))
        if isinstance(value, Mapping):
            refuse_unknown_keys("a storyboard", value, ("shots",))
            value = value.get("shots", ())
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"a storyboard's shots are a list, got {value!r}: shots have an order. "
                f'Write {{"shots": [{{"prompt": "...", "seconds": 5}}]}}.'
            )
        return cls(shots=tuple(Shot.of(shot) for shot in value))

    def plan(
        self,
        timing: BlockTiming,
        *,
        seconds: Number | None = None,
        blocks: int | None = None,
        shot_offset: Number = SHOT_OFFSET,
        prefix: str = SCENE_CUT_PREFIX,
    ) -> "ShotPlan":
        """Give every shot whole blocks.

        A shot's own seconds round to the nearest number of blocks, at least one. A total in
        ``seconds`` (the video is then cut to that many frames) or in ``blocks`` shares what is
        left among the shots without a length, the first ones taking the remainder; it drops
        shots past its end and extends the last shot to it. Without a total, every shot needs a
        length. ``seconds=math.inf`` makes an endless plan: the last shot goes on for ever, and
        every other needs a length. Raises ValueError where that cannot be, and for a total that
        is not positive.
        """
        if seconds == math.inf and blocks is None:
            last = replace(self.shots[-1], seconds=None, blocks=1)
            known = Storyboard(shots=(*self.shots[:-1], last))
            plan = known.plan(timing, shot_offset=shot_offset, prefix=prefix)
            return replace(plan, endless=True)
        if seconds is not None and blocks is not None:
            raise ValueError(
                f"a video has one length, got seconds={seconds!r} and blocks={blocks!r}: they "
                f"could disagree. Leave one of them out."
            )
        if blocks is not None and blocks < 1:
            raise ValueError(
                f"a video lasts at least one block, got blocks={blocks!r}: blocks are generated "
                f"whole. Use blocks=1 or more."
            )
        frames = None if seconds is None else timing.frames_in(seconds)
        total = blocks if frames is None else timing.blocks_covering(frames)
        lengths = _fit(self._lengths(timing, total), total)
        return ShotPlan(
            prompts=tuple(shot.prompt for shot in self.shots[: len(lengths)]),
            lengths=lengths,
            timing=timing,
            frames=timing.frames(sum(lengths)) if frames is None else frames,
            shot_offset=shot_offset,
            prefix=prefix,
        )

    def _lengths(self, timing: BlockTiming, total: int | None) -> list[int]:
        """Blocks of each shot, at least one, before they are made to fit the total."""
        lengths = [
            timing.blocks_nearest(shot.seconds, opening=place == 0)
            if shot.seconds is not None
            else shot.blocks
            for place, shot in enumerate(self.shots)
        ]
        given = [length for length in lengths if length is not None]
        open_shots = len(lengths) - len(given)
        if open_shots and total is None:
            raise ValueError(
                f"every shot needs a length where the video has none, got {open_shots} of "
                f"{len(lengths)} without: nothing says how long they are shown. "
                f"Give each shot seconds, or the video."
            )
        share, remainder = divmod((total or 0) - sum(given), max(open_shots, 1))
        shares = iter(max(1, share + (place < remainder)) for place in range(open_shots))
        return [next(shares) if length is None else length for length in lengths]


StoryboardLike = str | Shot | Storyboard | Mapping[str, Any] | Sequence[Any]
"""What ``Storyboard.of`` takes."""


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """A storyboard in blocks: a PromptSchedule, whose last shot goes on for as long as asked.

    ``frames`` is the length of the video, which may end inside its last block. A video that is
    ``endless`` has no length: ``blocks`` and ``frames`` then end with the last shot's first block.
    """

    prompts: tuple[str, ...]
    lengths: tuple[int, ...]
    timing: BlockTiming
    frames: int
    shot_offset: Number = SHOT_OFFSET
    prefix: str = SCENE_CUT_PREFIX
    endless: bool = False

    @property
    def blocks(self) -> int:
        """How many blocks the plan has."""
        return sum(self.lengths)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first block of each shot."""
        return (0, *accumulate(self.lengths[:-1]))

    @property
    def anchors(self) -> tuple[int, ...]:
        """For each block, the first block of the shot whose anchor it sees.

        A cut's own block still sees the anchor of the shot before: it shows where it comes from.
        """
        return tuple(self.starts[self._shot(max(block - 1, 0))] for block in range(self.blocks))

    def block(self, index: int) -> BlockPrompt:
        """The prompt of block ``index``; past the plan's end, the last shot's."""
        shot = self._shot(index)
        cut = index > 0 and index == self.starts[shot]
        return self.prompt(self.prompts[shot], shot=shot, cut=cut)

    def prompt(
        self, text: str, *, shot: int, cut: bool, recache: bool = False, forget: bool = False
    ) -> BlockPrompt:
        """A block's prompt with the prefix and the offset that its shot and cut ask for."""
        if cut and not text.startswith(self.prefix):
            text = self.prefix + text
        offset = float(shot * self.shot_offset)
        return BlockPrompt(
            text=text, shot=shot, cut=cut, offset=offset, recache=recache, forget=forget
        )

    def describe(self) -> list[dict[str, Any]]:
        """What the plan made of each shot, for records: prompt, blocks, start and seconds.

        The last shot of an endless plan has neither blocks nor seconds: they are None.
        """
        ends = [min(self.timing.frames(end), self.frames) for end in accumulate(self.lengths)]
        begins = [0, *ends[:-1]]
        described: list[dict[str, Any]] = [
            {
                "prompt": prompt,
                "blocks": length,
                "start": begin / self.timing.fps,
                "seconds": (end - begin) / self.timing.fps,
            }
            for prompt, length, begin, end in zip(
                self.prompts, self.lengths, begins, ends, strict=True
            )
        ]
        if self.endless:
            described[-1] |= {"blocks": None, "seconds": None}
        return described

    def _shot(self, block: int) -> int:
        return sum(start <= block for start in self.starts) - 1


def require_prompt(prompt: Any) -> None:
    """Raise ValueError unless ``prompt`` is a text with something in it."""
    if not isinstance(prompt, str):
        raise ValueError(
            f"a prompt is a text, got {prompt!r}: it says what to show. Put it in quotes."
        )
    if not prompt.strip():
        raise ValueError(
            f"a prompt needs at least one word, got {prompt!r}: it says what to show. "
            f"Write for example 'a red circle moves right on a navy background'."
        )


def _positive_seconds(seconds: Any) -> Number:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds < math.inf:
        raise ValueError(
            f"seconds must be a number above 0, got {seconds!r}: a video has at least one frame. "
            f"Use for example seconds=5."
        )
    return seconds


def _require_shot(prompt: Any, seconds: Any, blocks: Any) -> None:
    """Raise ValueError unless these make a shot; values may come straight from a file."""
    require_prompt(prompt)
    if seconds is not None:
        _positive_seconds(seconds)
    whole = isinstance(blocks, int) and not isinstance(blocks, bool)
    if blocks is not None and not (whole and blocks >= 1):
        raise ValueError(
            f"a shot lasts a whole number of blocks, at least one, got {blocks!r}: blocks are "
            f"generated whole. Use blocks=1 or more."
        )
    if seconds is not None and blocks is not None:
        raise ValueError(
            f"a shot has one length, got seconds={seconds!r} and blocks={blocks!r}: they could "
            f"disagree. Leave one of them out."
        )


def _fit(lengths: list[int], total: int | None) -> tuple[int, ...]:
    """Cut ``lengths`` at ``total`` blocks, or extend the last one to it."""
    if total is None:
        return tuple(lengths)
    fitted: list[int] = []
    for length in lengths:
        left = total - sum(fitted)
        if left:
            fitted.append(min(length, left))
    fitted[-1] += total - sum(fitted)
    return tuple(fitted)
