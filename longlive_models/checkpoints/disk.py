"""Writing of weights through other libraries, as if this library wrote the files itself.

Errors of the disk become an ``OSError`` with the error's number and the file: those libraries raise
errors of their own, in which a full disk is only a part of a sentence. Files get the permissions of
any new file: safetensors makes them readable by their owner alone, so that nobody else could load a
model from a folder that several people share.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

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


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    named: Path | None = None,
) -> None:
    """Write a safetensors file; those who may read other new files of this process may read it.

    Args:
        tensors: contiguous tensors on the CPU, by name.
        path: the file.
        metadata: texts for the file's header.
        named: the file that an error names, if ``path`` is a temporary one.

    Raises:
        OSError: the file cannot be written; none is left then that was not there before.
    """
    new = not path.exists()
    try:
        path.touch()
        mode = path.stat().st_mode
        with told_by_the_system(path):
            save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
        permit([path], mode)
    except OSError as error:
        if new:
            path.unlink(missing_ok=True)
        if named is None:
            raise
        raise OSError(error.errno, error.strerror, str(named)) from error


def permit(files: Iterable[Path], mode: int) -> None:
    """Give files the permissions of a file with this ``st_mode``, where the disk keeps any."""
    for file in files:
        with suppress(PermissionError):
            file.chmod(S_IMODE(mode))


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
