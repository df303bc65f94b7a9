"""Checks of file names that a person chose, and the names of files that are still being written."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from longlive_core.checks import shown

_FORBIDDEN = "/\\\0"
_PORTS = (f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))
_DEVICES = frozenset(("con", "prn", "aux", "nul", *_PORTS))


def require_name(name: Any, what: str) -> None:
    """Raise ValueError unless ``name`` can be a file's name on Linux, macOS and Windows.

    ``what`` says in the message what has the name. Lengths depend on the folder: see
    ``require_room``.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"{what} is a text, got {shown(name)}: it becomes a file's name. Put it in quotes."
        )
    reason = _unfit(name)
    if reason:
        raise ValueError(
            f"{what} {shown(name)} cannot name a file: {reason}. Use letters, digits, '-' and '_'."
        )


def _unfit(name: str) -> str:
    """Why ``name`` cannot be a file's name; "" if it can."""
    if not name.strip():
        return "it is empty"
    if name in (".", ".."):
        return "it names a folder"
    if any(sign in name for sign in _FORBIDDEN):
        return "leave out slashes, which part folders, and NUL"
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        return "it holds control characters"
    if name.partition(".")[0].strip().lower() in _DEVICES:
        return "Windows keeps it for a device"
    return ""


def require_distinct(names: Iterable[str], what: str) -> None:
    """Raise ValueError for two names that some file systems take for one, as "A" and "a".

    ``what`` says in the message what has the names, as "videos".
    """
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            both = "the same name" if seen[key] == name else f"the names {shown(seen[key])} and"
            raise ValueError(
                f"two {what} have {both} {shown(name)}: many file systems take these for one, and "
                f"one file would replace the other. Give each an id of its own."
            )
        seen[key] = name


def temporary(name: str) -> str:
    """The path of a file while it is being written: hidden, and with this process's id."""
    return f".{name}.{os.getpid()}.new"


def part(name: str) -> str:
    """The path of a record until it is complete."""
    return f"{name}.part"


def require_room(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError for a name that has more bytes than the file system allows.

    Args:
        path: the path that a person named; its folder may not exist yet.
        names: names of all files that will be written beside it, temporary ones too.
    """
    folder = path.parent
    while not os.path.exists(folder):  # of a name that is too long, Path.exists would raise
        folder = folder.parent
    most = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    new = path.parent.parts[len(folder.parts) :]
    longest = max((*new, *names), key=_size)
    if _size(longest) > most:
        raise ValueError(
            f"{shown(path.name)} needs a file {shown(longest)}, whose name takes {_size(longest)} "
            f"bytes, and {shown(str(folder))} takes {most}; letters beyond ASCII take two to four. "
            f"Use a name that is shorter by {_size(longest) - most}."
        )


def _size(name: str) -> int:
    return len(os.fsencode(name))
