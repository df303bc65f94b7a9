"""The configs of a generation: how, which videos, and which snapshots. Needs no torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longlive_core.checks import real, whole
from longlive_models.block_steps import check_block_steps
from longlive_models.choices import check_guidance, check_sampler
from longlive_models.prompts.storyboard import Storyboard
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.timing import check_fps
from longlive_recipes.configs.given_clip import GivenClip as GivenClip
from longlive_recipes.planning.hardware import size_in_bytes

if TYPE_CHECKING:
    from longlive_recipes.generation.commands import Command
    from longlive_recipes.generation.starting_points import Recorded, ResumePoint


@dataclass(frozen=True, kw_only=True)
class Generate(RuntimeOptions):
    """How videos are generated. None and "auto" leave a choice to the model or the machine.

    ``RuntimeOptions`` has the fields of the machine: device, precisions, backends. ``fps`` and
    ``crf`` (the quality of an mp4, from 0, the best, to 51) say how frames are stored, and change
    none: ``seconds`` are of the model's own rate, so a video of 5 s plays for 2.5 s at twice that
    rate. ``max_memory``, such as "24GB", lets what is left to "auto" be picked so that no more of
    the device is taken.

    Raises ValueError for numbers that make no video and for precisions that do not exist.
    """

    model: str = "pocket"
    seconds: float | None = None
    sampler: str | None = None
    steps: int | tuple[int, ...] | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    fps: float | None = None
    crf: int | None = None
    download: bool = False
    max_memory: str | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and self.seconds != math.inf:
            why = "a video has at least one frame. Use, say, 5."
            real("seconds", self.seconds, above=0, why=why)
        if self.sampler is not None:
            check_sampler(self.sampler)
        if self.steps is not None:
            object.__setattr__(self, "steps", check_block_steps("steps", self.steps))
        if self.guidance is not None:
            check_guidance(self.guidance)
        if self.fps is not None:
            check_fps("fps", self.fps, why="frames a second of the file. Use, say, 24.")
        if self.crf is not None:
            why = "the quality of an mp4, whose best is 0 and worst 51. Use, say, 16."
            whole("crf", self.crf, at_least=0, at_most=51, why=why)
        if self.max_memory is not None:
            size_in_bytes("max_memory", self.max_memory)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A requested video.

    Attributes:
        name: the name of its file, if there are several.
        story: its prompts; a video that is continued takes those of the snapshot.
        seed: the seed of its noise.
        image: the picture that it starts with.
        image_sha256: the hash of that file, if a record or a snapshot has it.
        clip: the clip that it goes on from.
        events: events of another video (``Stream.events``), which are repeated.
        like: the record of the video that this one must equal.
        resume_point: the snapshot that it is continued from.
        ending: the command that steers it when it is continued.
    """

    name: str
    story: Storyboard
    seed: int
    image: Path | None = None
    image_sha256: str | None = None
    clip: GivenClip | None = None
    events: tuple[dict[str, Any], ...] = ()
    like: "Recorded | None" = None
    resume_point: "ResumePoint | None" = None
    ending: "Command | None" = None

    @property
    def recorded_crf(self) -> int | None:
        """The quality that a record or a snapshot brings along, which nobody chose for this run."""
        if self.like is not None:
            return self.like.config.get("crf")
        return None if self.resume_point is None else self.resume_point.stored.get("crf")

    @property
    def reads(self) -> list[tuple[str, Path]]:
        """The files that this video is made from, each with what it is."""
        found = [] if self.image is None else [("the image", self.image)]
        if self.clip is not None and self.resume_point is None:
            found.append(("the clip", self.clip.path))
        if self.like is not None:
            found.append(("the record to replay", self.like.path))
        if self.resume_point is not None:
            found.append(("the snapshot to resume", self.resume_point.snapshot))
            if self.resume_point.start is not None:
                found.append(("the video that goes on", self.resume_point.start.path))
        return found


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The file for snapshots, which are written at interrupts and after each ``every`` blocks."""

    path: Path
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(
                f"a snapshot every {self.every} blocks cannot be: blocks are made whole. "
                f"Use 1 or more."
            )
