"""What the name of a video's file says of it; nothing here reads or writes one."""

from pathlib import Path

SUFFIXES = (".mp4", ".gif", ".png")


def destination(path: str | Path) -> Path:
    """What a `VideoWriter` of this path creates: the file, for `.png` the folder of that stem.

    Raises:
        ValueError: the suffix is not one that can be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"{path} cannot be written: a video's suffix is one of {', '.join(SUFFIXES)} (.png: a "
            f"folder of frames), got {path.suffix!r}. Name the output, say, {path.stem}.mp4."
        )
    return path.with_suffix("") if path.suffix.lower() == ".png" else path
