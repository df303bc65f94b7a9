"""Locks on video files, so that one process at a time writes a video; they end with the process."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """A lock on an existing file or folder of frames, until ``release``.

    Raises:
        ValueError: another process, or another video of this process, has locked it.
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
        """Release the lock."""
        os.close(self._file)


def reserve(path: Path, *, folder: bool) -> FileLock:
    """Lock ``path`` before it is replaced; an empty file is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir(exist_ok=True)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    return FileLock(path)


def require_free(path: Path) -> None:
    """Raise ValueError if a file exists and is being written by another process."""
    if path.exists() and os.access(path, os.R_OK):
        FileLock(path).release()
