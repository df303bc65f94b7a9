"""A file that is read is never written: every output is compared with every input, as files."""

from collections.abc import Iterable
from pathlib import Path

Named = tuple[str, Path]
"""What a file is, as a message calls it, and where it lies."""

_Key = tuple[int, int]


def refuse_inputs(writes: Iterable[Named], reads: Iterable[Named], *, option: str) -> None:
    """Raise ValueError if a file or folder to be written is one that is read, or holds one.

    Files are compared by what they are, not by name: through symbolic and hard links, relative
    paths, and the letter case that a file system does not tell apart. A new file may be written
    into a folder that is read; what such a folder holds may not be replaced.

    Args:
        writes: outputs, which need not exist. A folder stands for all that is in it.
        reads: inputs; those that are not there are left to whoever reads them.
        option: what a message says to change, "--output" say.
    """
    inputs = _Inputs(reads)
    for what, path in writes:
        found = inputs.clash(path)
        if found is not None:
            read_as, read = found
            name = f"{path}" if path == read else f"{path} (which is {read}, or is inside it)"
            if path != read and path.is_dir():
                name = f"{path} (which holds {read})"
            raise ValueError(
                f"{what} would replace {name}, and that is read here as {read_as}: a file that is "
                f"read is never written. Name another {option}."
            )


def require_inputs(reads: Iterable[Named]) -> None:
    """Raise ValueError for an input that is not there."""
    for what, path in reads:
        if not path.exists():
            raise ValueError(
                f"there is no {str(path)!r}, which is to be read as {what}. Check the path."
            )


class _Inputs:
    """Files and folders that are read, found again by device and inode."""

    def __init__(self, reads: Iterable[Named]) -> None:
        self.files: dict[_Key, Named] = {}
        self.folders: dict[_Key, Named] = {}
        self.holders: dict[_Key, Named] = {}
        for what, path in reads:
            key = _key(path)
            if key is None:
                continue
            (self.folders if path.is_dir() else self.files).setdefault(key, (what, path))
            for parent in path.resolve().parents:
                holder = _key(parent)
                if holder is None or holder in self.holders:
                    continue
                self.holders[holder] = (what, path)

    def clash(self, path: Path) -> Named | None:
        """The input that writing ``path`` would change, or None."""
        key = _key(path)
        if key is None:
            return None  # what is not there replaces nothing
        if key in self.files or key in self.folders:
            return self.files.get(key) or self.folders[key]
        if path.is_dir():
            return self.holders.get(key)
        for parent in path.resolve().parents:
            holder = _key(parent)
            if holder in self.folders:
                return self.folders[holder]
        if path.stat().st_nlink > 1:  # a second name of a file inside
            for named in self.folders.values():
                if any(_key(inside) == key for inside in named[1].rglob("*")):
                    return named
        return None


def _key(path: Path) -> _Key | None:
    """What a file is whatever its name; None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file system takes names no file
        return None
    return found.st_dev, found.st_ino
