"""Frames of a video file with the time that each is shown at, one in memory at a time.

For clips that are longer than memory, and whose frames are not equally long.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longlive_models.timing import check_fps
from longlive_models.video.facts import VideoFacts
from longlive_models.video.picture import Pixels, open_file, open_picture
from longlive_models.video.reader import VideoFile

TICK = 1e-3
"""Seconds by which a time may be off: containers round to milliseconds."""

Span = tuple[float, float | None]
"""A start and an end in seconds; None is the end of the video."""


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """A frame that is shown from ``start`` to ``end``, in seconds since the first frame's start.

    ``show`` converts it: uint8 [height, width, 3], turned and stretched as its header says.
    """

    start: float
    end: float
    show: Callable[[], Pixels]


def timed_frames(path: str | Path) -> Generator[TimedFrame, None, None]:
    """The frames of a video file in order, decoded as they are asked for.

    Raises:
        ValueError: there is no such file, it holds no video, or a frame is damaged.
    """
    with open_file(path, "a video") as file:
        clip = VideoFile(path, file)
        rate = clip.facts().fps
        first, now, count = None, 0.0, 0
        with closing(clip.decoded()) as frames:
            for frame, aspect in frames:
                own = count / rate if frame.time is None else frame.time
                first = own if first is None else first
                now = max(now, own - first)
                lasts = float(frame.duration * (frame.time_base or 0)) or 1 / rate
                yield TimedFrame(now, now + lasts, partial(clip.shown, frame, aspect))
                count += 1


def video_facts(path: str | Path) -> VideoFacts:
    """What a video file holds; all of it is read, and its first frame alone decoded.

    Raises:
        ValueError: see ``timed_frames``.
    """
    with open_file(path, "a video") as file:
        if open_picture(path, file) is not None:
            raise ValueError(
                f"{path} is a picture, or pictures that move, and a clip is read from a video. "
                f"Name one, as mp4, mov, mkv or webm."
            )
        return VideoFile(path, file).facts()


def sampled(seconds: float, fps: float) -> int:
    """How many frames ``resample`` gives of a span of so many seconds."""
    return max(0, math.ceil((seconds - TICK) * fps))


def resample(
    frames: Iterable[TimedFrame], spans: Sequence[Span], fps: float
) -> Iterator[tuple[int, Pixels]]:
    """The frames that a viewer sees ``fps`` times a second within each span.

    Of a faster video some are left out, of a slower one some come again; how long it lasts stays.

    Args:
        spans: in order, none of which begins before the one before it ends; the last alone may
            have no end.

    Yields:
        The number of the span, and the picture on the screen at its start, ``1 / fps`` later, ...

    Raises:
        ValueError: spans out of order, or a rate that is not above 0.
    """
    check_fps("fps", fps, why="a video is sampled so often a second. Use 12, say.")
    past = 0.0
    for start, end in spans:
        if start < past or (end is not None and end <= start):
            raise ValueError(
                f"spans are in order, each with a start from 0 on and an end after it, got "
                f"{list(spans)}: a video is read once, from its start. Sort them."
            )
        past = float("inf") if end is None else end
    source = iter(frames)
    shown, coming = next(source, None), next(source, None)
    for number, (start, end) in enumerate(spans):
        count = 0
        while shown is not None:
            time = start + count / fps
            while coming is not None and coming.start <= time + TICK:
                shown, coming = coming, next(source, None)
            over = end is not None and time >= end - TICK
            if over or (coming is None and time >= shown.end - TICK):
                break
            yield number, shown.show()
            count += 1
