"""What is known of a video before it is decoded. Numbers only."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a video file holds, seen without decoding it.

    Attributes:
        frames: those that are whole.
        seconds: from the first frame's start to the last one's end.
        fps: frames a second, of all of them together.
        height, width: pixels, as it is shown.
        missing: what of the file is not there; None where it is whole.
    """

    frames: int
    seconds: float
    fps: float
    height: int
    width: int
    missing: str | None = None
