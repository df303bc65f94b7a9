"""Checks that no output replaces an input: all outputs are compared with all inputs."""

from collections.abc import Iterable
from pathlib import Path

Named = tuple[str, Path]
"""An input or output: what it is, for messages, and its path."""

_Key = tuple[int, int]


def refuse_inputs(writes: Iterable[Named], reads: Iterable[Named], *, option: str) -> None:
    """Raise ValueError if an output is an input, or a folder that holds one.

    Files are compared by device and inode, not by name, so links, relative paths and letter case do
    not matter. A new file may be written into a folder that is read; files in such a folder may not
    be replaced.

    Args:
        writes: the outputs, which need not exist. A folder stands for all files in it.
        reads: the inputs; missing ones are ignored here.
        option: the option that the message tells to change, such as "--output".
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
    """Raise ValueError for an input that does not exist."""
    for what, path in reads:
        if not path.exists():
            raise ValueError(
                f"there is no {str(path)!r}, which is to be read as {what}. Check the path."
            )


class _Inputs:
    """The inputs, identified by device and inode."""

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
    """The device and inode of a file; None if it does not exist."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a name that no file system takes names no file
        return None
    return found.st_dev, found.st_ino
