"""What the name of a video's file says of it; nothing here reads or writes one."""

import os
from pathlib import Path
from typing import Any

from longlive_core.checks import shown

SUFFIXES = (".mp4", ".gif", ".png")


def file_path(path: Any) -> Path:
    """``path`` as one; ValueError for what is no path, nor the text of one."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a file is named by its path, got {shown(path)}: write 'a.mp4', say.")
    return Path(path)


def destination(path: str | Path) -> Path:
    """What a `VideoWriter` of this path creates: the file, for `.png` the folder of that stem.

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
