"""A video is written by one process at a time: a lock on the file itself, gone with its holder."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """Holds a file, or a folder of frames, until ``release``; it must be there.

    Raises:
        ValueError: another process, or another video of this one, holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise ValueError(
                f"{path} is being written by another process: two would leave it unplayable. Wait "
                f"for that one to end, or name another --output."
            ) from error
        except OSError:  # a file system without locks
            return

    def release(self) -> None:
        """Let others have it."""
        os.close(self._file)


def reserve(path: Path, *, folder: bool) -> FileLock:
    """Hold ``path``, made empty if it is not there, before anything in it is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir(exist_ok=True)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    return FileLock(path)


def require_free(path: Path) -> None:
    """Raise ValueError if a file that is there is being written now."""
    if path.exists() and os.access(path, os.R_OK):
        FileLock(path).release()
