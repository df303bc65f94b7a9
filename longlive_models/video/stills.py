"""Telling pictures from videos: what is given as one of them is not taken for the other."""

from contextlib import closing
from itertools import islice
from pathlib import Path

from longlive_models.video.picture import Pixels, damage_is_named, open_file, open_picture
from longlive_models.video.reader import Moving, VideoFile, read_image


def read_still(path: str | Path) -> Pixels:
    """The picture in an image file.

    Raises:
        ValueError: it holds several frames, no picture, or one that is damaged or too large.
    """
    first = read_image(path)
    if shows_several(path):
        raise ValueError(
            f"{path} is a video, and an image is one picture, that a video begins with. Name a "
            f"png or jpg file; a clip that a video goes on from is named with video (--video)."
        )
    return first


def shows_several(path: str | Path) -> bool:
    """Whether a file shows more than one frame. Raises ValueError as ``read_image`` does."""
    with open_file(path, "an image") as file:
        image = open_picture(path, file)
        if image is not None:
            with damage_is_named(path):
                return isinstance(image, Moving) and image.n_frames > 1
        with closing(VideoFile(path, file, kind="an image").frames()) as frames:
            return sum(1 for _ in islice(frames, 2)) > 1
