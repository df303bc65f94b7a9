"""Reads videos from files and judges them, one after another, each at its own frame rate."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from longlive_models.documents import read_json
from longlive_models.timing import check_fps
from longlive_models.video.blocks import Frames
from longlive_models.video.files import CutShort, read_video
from longlive_recipes.moving_shapes.judge import ClipVerdict, judge_clip


def judge_files(
    videos: Sequence[Path],
    *,
    fps: float | None = None,
    note: Callable[[str], None],
    judged: Callable[[Path, ClipVerdict], None] | None = None,
) -> dict[Path, ClipVerdict]:
    """Judge videos, with one of them in memory at a time; returns the verdict of each path.

    Args:
        videos: video files, or folders of numbered png frames.
        fps: frames a second of all videos; None takes each video's own rate.
        note: called with a message for each file that breaks off before its end.
        judged: called with the path and the verdict of each video as soon as it is judged.

    Raises:
        ValueError: a video that does not exist, which is checked for all of them before the first
            is read, or one that cannot be read or judged.
    """
    for path in videos:
        if not path.exists():
            raise ValueError(
                f"there is no video {str(path)!r}: it was to be judged. Check the path."
            )
    verdicts = {}
    for path in videos:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", CutShort)
            frames, rate = read_clip(path, fps)
        for warning in told:
            note(str(warning.message))
        verdicts[path] = judge_clip(frames.numpy(), rate)
        if judged is not None:
            judged(path, verdicts[path])
    return verdicts


def read_clip(path: Path, fps: float | None = None) -> tuple[Frames, float]:
    """Read a video: its frames, and how many of them there are a second.

    Args:
        path: a video file, or a folder of numbered png frames.
        fps: frames a second. None takes a file's own rate; that of a folder FRAMES is read from
            the record FRAMES.json beside it.

    Raises:
        ValueError: a video that ``read_video`` refuses, or a folder without such a record when
            ``fps`` is None.
    """
    if fps is None and path.is_dir():
        record = path.resolve().with_name(f"{path.resolve().name}.json")
        if not record.is_file():
            raise ValueError(
                f"{path} is a folder of frames, and no record {record.name} beside it says how "
                f"many there are a second: pass --fps."
            )
        result = read_json(record, "the record of a video").get("result")
        rate = result.get("fps") if isinstance(result, dict) else None
        why = "frames a second of the video beside it. Pass --fps."
        fps = check_fps(f"result.fps in {record}", rate, why=why)
    return read_video(path, fps=fps)
