"""The queue of whole videos: one is made at a time, beside the sessions that are watched."""

from collections import deque
from collections.abc import Callable

from longlive_recipes.serve.video import ServedVideo


class JobQueue:
    """Videos that are made one after another; the queue takes one turn of the scheduler.

    Args:
        begin: opens a video's session on the scheduler's thread; what it raises is the video's
            error.
    """

    def __init__(self, begin: Callable[[ServedVideo], None]) -> None:
        self._begin = begin
        self._waiting: deque[ServedVideo] = deque()
        self._active: ServedVideo | None = None

    @property
    def waiting(self) -> int:
        """How many videos wait."""
        return len(self._waiting)

    def put(self, video: ServedVideo) -> None:
        """Put a video at the end."""
        self._waiting.append(video)

    def remove(self, video: ServedVideo) -> None:
        """Take a video out; on the scheduler's thread."""
        if video in self._waiting:
            self._waiting.remove(video)
        if self._active is video:
            self._active = None

    def place(self, video: ServedVideo) -> int | None:
        """How many videos are before this one; None if it does not wait."""
        waiting = list(self._waiting)
        return waiting.index(video) if video in waiting else None

    def ready(self) -> bool:
        """Whether there is a video to be made."""
        return self._active is not None or bool(self._waiting)

    def turn(self) -> None:
        """Make a block of the video whose turn it is, or begin the next one."""
        if self._active is not None and not self._active.open:
            self._active = None
        if self._active is None:
            if not self._waiting:
                return
            video = self._waiting.popleft()
            try:
                self._begin(video)
            except Exception as error:
                video.fail(error)
                return
            self._active = video
        self._active.turn()
