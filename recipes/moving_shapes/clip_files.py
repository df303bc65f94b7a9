"""Videos in files as the judge takes them: one after another, each at its own rate."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from longlive_core.checks import real
from longlive_models.documents import read_json
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
    """A verdict for every video; one of them is in memory at a time.

    Args:
        videos: files, or folders of numbered png frames.
        fps: the rate of all of them, where their own is not wanted.
        note: told what a file lacks that was cut.
        judged: told each verdict as soon as it is there.

    Raises:
        ValueError: a video that cannot be read or judged; all are looked for before the first.
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
    """Frames and rate of a video; that of a folder of frames is in the record beside it.

    Raises:
        ValueError: see ``read_video``; a folder without a record, and no ``fps``.
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
        fps = real(f"result.fps in {record}", rate, above=0, why=why)
    return read_video(path, fps=fps)
