"""What a disk says while weights are written: an ``OSError`` with the number and the file.

The libraries that write and copy for us put a full disk into sentences of errors of their own.
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
"""Of a folder and the names in it, those that are not copied."""


@contextmanager
def told_by_the_system(path: Path) -> Iterator[None]:
    """Within the block a safetensors file or folder is written to ``path``.

    Raises:
        OSError: what the system said, where it is why the file cannot be written.
    """
    try:
        yield
    except SafetensorError as error:
        found = _system_error(str(error), path)
        if found is None:
            raise
        raise found from error


def copy_tree(source: Path, target: Path, ignore: Ignored) -> None:
    """Copy a folder. Raises OSError for the first file that cannot be, with its name."""
    try:
        shutil.copytree(source, target, ignore=ignore)
    except shutil.Error as error:
        _, name, why = error.args[0][0]
        found = _system_error(str(why), Path(name))
        if found is None:
            raise
        raise found from error


def _system_error(text: str, path: Path) -> OSError | None:
    """The error whose number is in another library's sentence."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    number = int(found[1] or found[2])
    return OSError(number, os.strerror(number), str(path))
