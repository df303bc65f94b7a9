"""Shots, storyboards, and the plan of which prompt, cut and time offset each block has.

A block is what the model generates at once: ``frames_per_block`` latent frames. The first latent
frame of a video decodes to one frame, every later one to ``temporal_factor`` frames, so block 0
gives fewer frames than the others (29 and 32 at the usual sizes).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

from longlive_core.checks import real, shown, whole
from longlive_models.prompts.past import Past as Past
from longlive_models.prompts.text import require_prompt
from longlive_models.timing import BlockTiming as BlockTiming
from longlive_models.timing import Number as Number
from longlive_models.timing import blocks_of, seconds_of
from longlive_models.unknown_keys import refuse_unknown_keys

SCENE_CUT_PREFIX = "The scene transitions. "
"""The prefix of the prompt of a cut's block, with which models were trained. See LongLive-2.0
(arXiv 2605.18739), multi-shot generation."""

SHOT_OFFSET = 8.0
"""How many latent frames a cut adds to the temporal positions of all frames after it."""

DEFAULT_SECONDS = 5.0
"""The length of a video, in seconds, if neither it nor its shots have one."""


@dataclass(frozen=True, kw_only=True)
class BlockPrompt:
    """The prompt of a block, and how the block treats the past.

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
    """A protocol that gives the prompt of each block; blocks are asked for in order."""

    def block(self, index: int) -> BlockPrompt:
        """The prompt of block ``index``, from 0."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A prompt and its length: ``seconds``, ``blocks`` or, with neither, an equal share.

    Raises ValueError for an empty prompt, a length that is not positive or longer than any video,
    or two lengths.
    """

    prompt: str
    seconds: Number | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        checked = _shot(self.prompt, self.seconds, self.blocks)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: Any) -> "Shot":
        """Make a shot of a prompt or ``{"prompt", "seconds" or "blocks"}``, or return a shot."""
        if isinstance(value, Shot):
            return value
        if isinstance(value, str):
            return cls(prompt=value)
        if not isinstance(value, Mapping):
            raise ValueError(
                f"a shot is a prompt or an object with the key 'prompt', got {shown(value)}: there "
                f'is nothing to show. Write {{"prompt": "...", "seconds": 5}}.'
            )
        refuse_unknown_keys("a shot", value, ("prompt", "seconds", "blocks"))
        if "prompt" not in value:
            raise ValueError(
                f"a shot needs the key 'prompt', got {sorted(value)}: there is nothing to show. "
                f'Write {{"prompt": "...", "seconds": 5}}.'
            )
        checked = _shot(value["prompt"], value.get("seconds"), value.get("blocks"))
        return cls(prompt=checked["prompt"], seconds=checked["seconds"], blocks=checked["blocks"])


@dataclass(frozen=True, kw_only=True)
class Storyboard:
    """Shots in order, with a cut between each two.

    ``left_out`` has prompts of the file that are not shown, for records.
    Raises ValueError if there are no shots, or something else is among them.
    """

    shots: tuple[Shot, ...]
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = self.shots
        if not isinstance(given, list | tuple) or not all(isinstance(s, Shot) for s in given):
            raise ValueError(
                f"a storyboard's shots are a tuple of Shot, got {shown(given)}: shots have an "
                f"order. Storyboard.of makes them of prompts and of plain values."
            )
        object.__setattr__(self, "shots", tuple(given))
        if not self.shots:
            raise ValueError(
                "a storyboard needs at least one shot, got none: there is nothing to show. "
                "Add a prompt."
            )

    @classmethod
    def of(cls, value: Any) -> "Storyboard":
        """Make a storyboard of a prompt, a list of shots, or ``{"shots": [...]}``."""
        if isinstance(value, Storyboard):
            return value
        if isinstance(value, str | Shot):
            return cls(shots=(Shot.of(value),))
        if isinstance(value, Mapping):
            refuse_unknown_keys("a storyboard", value, ("shots",))
            value = value.get("shots", ())
        elif not isinstance(value, list | tuple):
            raise ValueError(
                f"a prompt is a text, a list of shots or a storyboard, got {shown(value)}: it says "
                f"what to show. Write for example 'a red circle moves right on a navy background'."
            )
        if not isinstance(value, list | tuple):
            raise ValueError(
                f"a storyboard's shots are a list, got {shown(value)}: shots have an order. "
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
        past: Past | None = None,
    ) -> "ShotPlan":
        """Give every shot whole blocks.

        A shot's own seconds round to the nearest number of blocks, at least one. A total in
        ``seconds`` (the video is then cut to that many frames) or in ``blocks`` shares what is left
        among the shots without a length, the first ones taking the remainder, and extends the last
        shot to it. Shots with lengths of their own that begin past it are left out, and the plan
        says so. Without a total, every shot needs a length. ``seconds=math.inf`` makes an endless
        plan: the last shot goes on for ever, and every other needs a length. ``past`` puts the
        blocks of a clip before the shots; lengths do not count them. Raises ValueError where that
        cannot be, for a total that is not positive or beyond any video, and for shots without a
        length that the total has no block for.
        """
        if seconds == math.inf and blocks is None:
            last = replace(self.shots[-1], seconds=None, blocks=1)
            known = Storyboard(shots=(*self.shots[:-1], last))
            plan = known.plan(timing, shot_offset=shot_offset, prefix=prefix, past=past)
            return replace(plan, endless=True)
        if seconds is not None and blocks is not None:
            raise ValueError(
                f"a video has one length, got seconds={seconds!r} and blocks={blocks!r}: they "
                f"could disagree. Leave one of them out."
            )
        if blocks is not None:
            blocks = blocks_of("blocks", blocks, at_most=timing.most_blocks)
        given_blocks = 0 if past is None else past.blocks
        frames = None
        if seconds is not None:
            frames = timing.frames_in(seconds) + timing.frames(given_blocks)
        total = blocks if frames is None else timing.blocks_covering(frames) - given_blocks
        wanted = self._lengths(timing, total, opening=past is None)
        lengths = _fit(wanted, total)
        rest = self.shots[len(lengths) :]
        if any(shot.seconds is None and shot.blocks is None for shot in rest):
            needed = math.ceil(timing.seconds(sum(wanted)))
            given = timing.seconds(sum(lengths))
            if seconds is not None:
                given = timing.frames_in(seconds) / timing.fps
            raise ValueError(
                f"{len(self.shots)} shots do not fit into {given:.4g} s: a "
                f"shot lasts a block ({timing.block_seconds:.4g} s) or more, so {len(rest)} of "
                f"them would never be shown. Give the video {needed} seconds, or fewer shots; to "
                f"make a video of each line of a file, pass --one-video-a-line (lines='videos' in "
                f"read_prompts)."
            )
        prompts = tuple(shot.prompt for shot in self.shots[: len(lengths)])
        if past is not None:
            prompts, lengths = past.before(prompts, lengths)
        return ShotPlan(
            prompts=prompts,
            lengths=lengths,
            timing=timing,
            frames=timing.frames(sum(lengths)) if frames is None else frames,
            shot_offset=shot_offset,
            prefix=prefix,
            left_out=(*self.left_out, *(shot.prompt for shot in rest)),
            past=given_blocks,
        )

    def _lengths(self, timing: BlockTiming, total: int | None, *, opening: bool) -> list[int]:
        """Blocks of each shot, at least one, before they are made to fit the total."""
        lengths = [
            timing.blocks_nearest(shot.seconds, opening=opening and place == 0)
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
    """A storyboard in blocks: a PromptSchedule. Blocks past the end have the last shot's prompt.

    ``frames`` is the length of the video, which may end inside its last block. A video that is
    ``endless`` has no length: ``blocks`` and ``frames`` then end with the last shot's first block.
    ``left_out`` has the prompts of shots that are not shown. The first ``past`` blocks are those
    of a clip, which are given and not made; all other numbers count them.

    Raises ValueError for lengths that do not belong to the prompts, or frames not to the blocks.
    """

    prompts: tuple[str, ...]
    lengths: tuple[int, ...]
    timing: BlockTiming
    frames: int
    shot_offset: Number = SHOT_OFFSET
    prefix: str = SCENE_CUT_PREFIX
    endless: bool = False
    left_out: tuple[str, ...] = ()
    past: int = 0

    def __post_init__(self) -> None:
        for prompt in self.prompts:
            require_prompt(prompt)
        if not self.prompts or len(self.lengths) != len(self.prompts) or min(self.lengths) < 1:
            raise ValueError(
                f"a plan has a length of one block or more for each of its shots, got "
                f"{shown(self.lengths)} for {len(self.prompts)} shots. Make it with "
                f"Storyboard.plan."
            )
        blocks_of("a plan's blocks", self.blocks, at_most=self.timing.most_blocks)
        why = "a video ends within its last block. Make the plan with Storyboard.plan."
        most = self.timing.frames(self.blocks)
        whole("a plan's frames", self.frames, at_least=1, at_most=most, why=why)
        why = "a clip's blocks come before those that are made. Make the plan with Storyboard.plan."
        whole("a plan's past", self.past, at_least=0, at_most=self.blocks - 1, why=why)
        real("shot_offset", self.shot_offset, why="a cut moves positions in time by it. Use 8.0.")

    @property
    def blocks(self) -> int:
        """How many blocks the plan has."""
        return sum(self.lengths)

    @property
    def new_frames(self) -> int:
        """How many frames are made: those of the clip that it goes on from are not."""
        return self.frames - self.timing.frames(self.past)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first block of each shot."""
        return (0, *accumulate(self.lengths[:-1]))

    @property
    def anchors(self) -> tuple[int, ...]:
        """For each block, the first block of the shot whose anchor it sees.

        The block of a cut still sees the anchor of the shot before, and so the transition.
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
        """A block's prompt, with the prefix of a cut and the offset of its shot."""
        if cut and not text.startswith(self.prefix):
            text = self.prefix + text
        offset = float(shot * self.shot_offset)
        return BlockPrompt(
            text=text, shot=shot, cut=cut, offset=offset, recache=recache, forget=forget
        )

    def describe(self) -> list[dict[str, Any]]:
        """Describe each shot that is made, for records: prompt, blocks, start and seconds.

        Blocks and seconds are None for the last shot of an endless plan. A clip that the video
        goes on from is not described, and the start is counted from its end.
        """
        given = self.timing.frames(self.past)
        described: list[dict[str, Any]] = []
        for prompt, first, length in zip(self.prompts, self.starts, self.lengths, strict=True):
            start, end = max(first, self.past), first + length
            if start >= end:
                continue
            begins = self.timing.frames(start) - given
            ends = min(self.timing.frames(end), self.frames) - given
            described.append(
                {
                    "prompt": prompt,
                    "blocks": end - start,
                    "start": begins / self.timing.fps,
                    "seconds": (ends - begins) / self.timing.fps,
                }
            )
        if self.endless:
            described[-1] |= {"blocks": None, "seconds": None}
        return described

    def _shot(self, block: int) -> int:
        return sum(start <= block for start in self.starts) - 1


def plan_video(
    prompt: StoryboardLike,
    timing: BlockTiming,
    seconds: float | None,
    shot_offset: float,
    past: Past | None = None,
) -> ShotPlan:
    """Plan the blocks of a video; it has ``DEFAULT_SECONDS`` if no length is given."""
    storyboard = Storyboard.of(prompt)
    if seconds is None and any(
        shot.seconds is None and shot.blocks is None for shot in storyboard.shots
    ):
        seconds = DEFAULT_SECONDS
    return storyboard.plan(timing, seconds=seconds, shot_offset=shot_offset, past=past)


def _shot(prompt: Any, seconds: Any, blocks: Any) -> dict[str, Any]:
    """The fields of a shot; values may come straight from a file. Raises ValueError."""
    require_prompt(prompt)
    if seconds is not None and blocks is not None:
        raise ValueError(
            f"a shot has one length, got seconds={shown(seconds)} and blocks={shown(blocks)}: they "
            f"could disagree. Leave one of them out."
        )
    return {
        "prompt": prompt,
        "seconds": None if seconds is None else seconds_of(seconds),
        "blocks": None if blocks is None else blocks_of("a shot's blocks", blocks),
    }


def _fit(lengths: list[int], total: int | None) -> tuple[int, ...]:
    """Cut ``lengths`` at ``total`` blocks, or extend the last one to it."""
    if total is None:
        return tuple(lengths)
    fitted: list[int] = []
    left = total
    for length in lengths:
        if not left:
            break
        fitted.append(min(length, left))
        left -= fitted[-1]
    fitted[-1] += left
    return tuple(fitted)
