"""Disk errors while weights are written, as an ``OSError`` with the error's number and the file.

The libraries that write and copy files raise errors of their own, in which a full disk is only a
part of a sentence.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")

Ignored = Callable[[str, list[str]], Iterable[str]]
"""A function of a folder and the names in it that returns the names not to copy."""


@contextmanager
def told_by_the_system(path: Path) -> Iterator[None]:
    """A context in which ``path`` is written: errors of the system are raised as OSError.

    Raises:
        OSError: the system's error, if the library's error quotes one.
    """
    try:
        yield
    except SafetensorError as error:
        found = _system_error(str(error), path)
        if found is None:
            raise
        raise found from error


def copy_tree(source: Path, target: Path, ignore: Ignored) -> None:
    """Copy a folder. Raises OSError for the first file that cannot be copied, with its name."""
    try:
        shutil.copytree(source, target, ignore=ignore)
    except shutil.Error as error:
        _, name, why = error.args[0][0]
        found = _system_error(str(why), Path(name))
        if found is None:
            raise
        raise found from error


def _system_error(text: str, path: Path) -> OSError | None:
    """The OSError whose number stands in another library's message; None if there is none."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    number = int(found[1] or found[2])
    return OSError(number, os.strerror(number), str(path))
