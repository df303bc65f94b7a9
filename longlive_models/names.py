"""Names of files that other people chose: whether a file can be called so, here and elsewhere."""

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
    """Raise ValueError unless a file can be called so, whatever suffix follows.

    Lengths are asked of the folder: ``require_room``.
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
    """Why a file cannot be called so; "" if it can."""
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


def require_distinct(names: Iterable[str]) -> None:
    """Raise ValueError for two names that are one file's on some systems: case, accents apart."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            same = seen[key] == name
            raise ValueError(
                f"two videos have {'one name' if same else 'names'}, {shown(seen[key])}"
                f"{'' if same else f' and {shown(name)}'}: "
                f"{'' if same else 'many file systems take these for one, and '}one file would "
                f"replace the other. Give each its own."
            )
        seen[key] = name


def require_room(path: Path, endings: Sequence[str]) -> None:
    """Raise ValueError if a name is longer than its file system takes, with what is added to it.

    Args:
        path: of a file to be; its folder may not be there yet.
        endings: what other files add to ``path.stem``, as ".json", or put in front of it.
    """
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    most = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    longest = max((len(os.fsencode(ending)) for ending in endings), default=0)
    size = len(os.fsencode(path.stem)) + longest
    if size > most:
        raise ValueError(
            f"the name {shown(path.name)} takes {size} bytes with the {longest} that are added to "
            f"it, and {folder} takes {most}: files beside it could not be written. Use a name of "
            f"{most - longest} bytes at most; letters beyond ASCII take two to four."
        )
    folders = [part for part in path.parent.parts if len(os.fsencode(part)) > most]
    if folders:
        raise ValueError(
            f"the folder name {shown(folders[0])} is longer than the {most} bytes that {folder} "
            f"takes. Use a shorter one."
        )
