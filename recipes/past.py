"""What a video may start from instead of prompts: a snapshot to go on from, a record to repeat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from longlive_models.folder import read_json
from longlive_models.keys import refuse_unknown_keys
from longlive_models.stream_snapshot import Origin, SnapshotSummary
from longlive_models.video_start import VideoStart
from longlive_recipes.run_record import as_plain, differences


@dataclass(frozen=True, kw_only=True)
class Past:
    """A snapshot, and the frames that were in the file when it was taken.

    ``start`` is None where only what comes next is wanted.
    """

    snapshot: Path
    summary: SnapshotSummary
    start: VideoStart | None

    def require(self, here: Origin) -> None:
        """Raise ValueError if what is ``here`` would not go on bit for bit, or nothing is left."""
        self.summary.origin.require(here, self.snapshot)
        shots, block = self.summary.plan, self.summary.block
        if not shots.endless and block >= shots.blocks:
            raise ValueError(
                f"{self.snapshot} was taken at the end of its video, after block {block} of "
                f"{shots.blocks}: nothing is left to be made. Name an earlier snapshot."
            )


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The record of a video that is to be made again: what decides about its frames."""

    path: Path
    model_sha256: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]

    def require(self, model_sha256: str, settings: Mapping[str, Any], config: Any) -> None:
        """Raise ValueError if what is here would make another video."""
        changed = differences(self.settings, settings)
        changed += differences(self.config, as_plain(config), ignore=_ANY)
        if self.model_sha256 != model_sha256:
            changed.insert(0, f"weights' hash: {self.model_sha256[:12]} -> {model_sha256[:12]}")
        if changed:
            raise ValueError(
                f"{self.path} is of another video than would be made here "
                f"({'; '.join(changed)}): a replay makes the same one. Leave these as they were, "
                f"or generate a video of its own from prompts."
            )


_ANY = ("model", "device", "lane", "download", "strict")
"""Fields of a config that do not decide what is shown."""


def read_past(snapshot: Path, *, only_new: bool = False) -> Past:
    """What a snapshot is of, with the video that it names, unless ``only_new``.

    Raises:
        ValueError: no snapshot, or one that names no video.
    """
    summary = SnapshotSummary.read(snapshot)
    shots, start = summary.plan, None
    if not only_new and summary.block:
        if "video" not in summary.notes:
            raise ValueError(
                f"{snapshot} does not say which file the video is in, as it was not written by "
                f"`longlive generate`: pass --only-new and -o, for a file of what comes next."
            )
        frames = shots.timing.frames(summary.block)
        if not shots.endless:
            frames = min(frames, shots.frames)
        start = VideoStart(path=Path(summary.notes["video"]), frames=frames)
    return Past(snapshot=snapshot, summary=summary, start=start)


def read_record(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The record beside a video. Raises ValueError if it is none, or cannot be replayed."""
    if not path.is_file():
        raise ValueError(
            f"there is no record {str(path)!r}: it is the .json file beside a video. "
            f"Check the path."
        )
    record = read_json(path)
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(
            f"{path} is no record of a video that can be made again: it lacks "
            f"{', '.join(missing)}. Name the .json file beside a video of this version."
        )
    return record


def read_config(values: Mapping[str, Any], kind: type, path: Path) -> Any:
    """A config that was written down; ValueError where this version has other fields."""
    refuse_unknown_keys(f"the config in {path}", values, [field.name for field in fields(kind)])
    return kind(**values)
