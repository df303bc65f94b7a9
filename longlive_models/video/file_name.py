"""Names of video files and their suffixes; reads and writes nothing."""

import os
from pathlib import Path
from typing import Any

from longlive_core.checks import shown

SUFFIXES = (".mp4", ".gif", ".png")


def file_path(path: Any) -> Path:
    """Return ``path`` as a Path; ValueError unless it is a path or text."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a file is named by its path, got {shown(path)}: write 'a.mp4', say.")
    return Path(path)


def destination(path: str | Path) -> Path:
    """The path that a `VideoWriter` creates: the file; for `.png`, a folder named by the stem.

    Raises:
        ValueError: the suffix is not one that can be written.
    """
    path = file_path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} cannot be written: a video's suffix is one of {', '.join(SUFFIXES)} (.png: a "
            f"folder of frames), got {path.suffix!r}. Name the output, say, "
            f"{path.stem or 'video'}.mp4."
        )
    return path.with_suffix("") if path.suffix.lower() == ".png" else path
