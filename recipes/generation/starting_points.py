"""Starting points of a video other than prompts: a snapshot to resume, or a record to replay."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from longlive_core.checks import shown
from longlive_models.documents import read_json
from longlive_models.generator import check_seed
from longlive_models.prompts.steering import SteeringEvent
from longlive_models.prompts.storyboard import Shot
from longlive_models.schema import build, filled
from longlive_models.settings import GenerationSettings, completed
from longlive_models.stream_snapshot import Origin, SnapshotSummary
from longlive_models.video.append import VideoStart
from longlive_recipes.configs.given_clip import GivenClip
from longlive_recipes.run_record import as_plain, differences

Config = TypeVar("Config")

_SHOWN = 300
"""Letters of a list of adapters' files."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """A snapshot, and the frames that were in the file when it was taken.

    ``start`` is None if only the frames after the snapshot are written.
    """

    snapshot: Path
    summary: SnapshotSummary
    start: VideoStart | None

    @property
    def stored(self) -> Mapping[str, Any]:
        """The config with which the frames so far were made and stored, as far as it is known."""
        config: Mapping[str, Any] = self.summary.notes.get("config", {})
        return config

    def require(self, here: Origin, config: Any) -> None:
        """Raise ValueError if ``here`` would not continue bit for bit, or the video is complete."""
        if here.model != self.summary.origin.model:
            self._require_parts(config)
        self.summary.origin.require(here, self.snapshot)
        shots, block = self.summary.plan, self.summary.block
        if not shots.endless and block >= shots.blocks:
            raise ValueError(
                f"{self.snapshot} was taken at the end of its video, after block {block} of "
                f"{shots.blocks}: nothing is left to be made. Name an earlier snapshot."
            )

    def _require_parts(self, config: Any) -> None:
        """Raise ValueError for other adapters, or another decoder, than those of the snapshot."""
        for name in ("lora", "vae"):
            given = as_plain(getattr(config, name))
            before = self.stored.get(name, given)
            if given != before:
                raise ValueError(
                    f"{self.snapshot} was made with {name} {shown(before, _SHOWN)}, but here it is "
                    f"{shown(given, _SHOWN)}: a stream goes on bit for bit, so what makes frames "
                    f"must be the same. Leave it as it was, or start a new video."
                )

    def require_form(self, *, fps: float | None, crf: int | None) -> None:
        """Raise ValueError if new frames would be stored in another way than those in the file."""
        if self.start is None:
            return
        for name, given in (("fps", fps), ("crf", crf)):
            before = self.stored.get(name)
            if given != before:
                raise ValueError(
                    f"{name}={given} does not go on with {self.start.path}, whose frames were "
                    f"stored with {name}={before}: one file has one. Leave it as it was, or pass "
                    f"--only-new for a file of what comes next."
                )


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The part of a video's record that decides its frames, to make the video again."""

    path: Path
    model_sha256: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]

    def require(self, model_sha256: str, settings: Mapping[str, Any], config: Any) -> None:
        """Raise ValueError if the model, settings or config here would make another video."""
        changed = differences(completed(self.settings), completed(settings))
        recorded = as_plain(filled(self.config, config))
        same = self.model_sha256 == model_sha256
        moved = ("lora",) if same else ()  # the same adapters, which may lie elsewhere
        changed += differences(recorded, as_plain(config), ignore=(*_ANY, *moved))
        changed = list(dict.fromkeys(changed))  # some settings are fields of the config as well
        if not same:
            changed.insert(0, f"weights' hash: {self.model_sha256[:12]} -> {model_sha256[:12]}")
        if changed:
            raise ValueError(
                f"{self.path} is of another video than would be made here "
                f"({'; '.join(changed)}): a replay makes the same one. Leave these as they were, "
                f"or generate a video of its own from prompts."
            )

    def require_file(self, what: str, file: Path, before: str | None, now: str) -> None:
        """Raise ValueError if a file, such as a picture, has changed; ``before`` may be unknown."""
        if before not in (None, now):
            raise ValueError(
                f"{self.path} is of a video that began with another {what} than {file} is now (its "
                f"SHA-256 was {before:.12}, and is {now:.12}): a replay makes the same video. Put "
                f"the {what} back, or generate a video of its own from prompts."
            )


_ANY = ("model", "device", "lane", "download", "strict", "fps", "crf", "offload", "text_encoder")
"""Fields of a config that do not change the frames."""


def read_resume_point(snapshot: Path, *, only_new: bool = False) -> ResumePoint:
    """Read a snapshot, with the video that it names unless ``only_new``.

    Raises:
        ValueError: the file is no snapshot, or names no video.
    """
    summary = SnapshotSummary.read(snapshot)
    shots, start = summary.plan, None
    if not only_new and summary.block > shots.past:
        video = read_notes(summary, snapshot).video
        if video is None:
            raise ValueError(
                f"{snapshot} does not say which file the video is in, as it was not written by "
                f"`longlive generate`: pass --only-new and -o, for a file of what comes next."
            )
        frames = shots.timing.frames(summary.block)
        given = shots.timing.frames(shots.past)
        if not shots.endless:
            frames = min(frames, shots.frames)
        start = VideoStart(path=video, frames=frames - given)
    return ResumePoint(snapshot=snapshot, summary=summary, start=start)


def read_record(path: Path) -> "Record":
    """Read the record beside a video. Raises ValueError if it is none, or cannot be replayed."""
    if not path.is_file():
        raise ValueError(
            f"there is no record {str(path)!r}: it is the .json file beside a video. "
            f"Check the path."
        )
    record = read_json(path, "the record of a video")
    missing = [name for name in ("replay", "model_sha256", "settings") if name not in record]
    if missing:
        raise ValueError(
            f"{path} is no record of a video that can be made again: it lacks "
            f"{', '.join(missing)}. Name the .json file beside a video of this version."
        )
    known = {name: record[name] for name in _names(Record)}
    return build(Record, known, path, _RECORD_WAY_OUT)


def read_config(values: Any, kind: type[Config], path: Path) -> Config:
    """Read a config from a record; ValueError if this version has other fields."""
    return build(kind, values, f"{path}, config", _RECORD_WAY_OUT)


_RECORD_WAY_OUT = "Name a file as `longlive generate` wrote it."


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The part of a record from which its video is made again."""

    config: dict[str, Any]
    seed: int
    image: Path | None
    shots: tuple[Shot, ...]
    events: tuple[SteeringEvent, ...]
    image_sha256: str | None = None
    clip: GivenClip | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The part of a video's record that is read again."""

    replay: Replay
    model_sha256: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        GenerationSettings.from_dict(completed(self.settings))


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What ``longlive generate`` notes in a snapshot; None in snapshots of other programs."""

    config: dict[str, Any] | None = None
    video: Path | None = None
    image: Path | None = None
    image_sha256: str | None = None
    clip: GivenClip | None = None


def read_notes(summary: SnapshotSummary, path: Path) -> Notes:
    """Read the notes of a snapshot. Raises ValueError for values of other types."""
    known = {name: summary.notes[name] for name in _names(Notes) if name in summary.notes}
    return build(Notes, known, f"{path}, notes", _RECORD_WAY_OUT)


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]
