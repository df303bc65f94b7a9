"""Studio: all videos of a server, and what clients can do with them. Knows nothing of HTTP."""

import asyncio
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from longlive_recipes.configs.serve import Serve
from longlive_recipes.generation.commands import Command
from longlive_recipes.generation.file_lock import FileLock
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.images import Images
from longlive_recipes.serve.job_queue import JobQueue
from longlive_recipes.serve.offers import Offers
from longlive_recipes.serve.own_thread import aside
from longlive_recipes.serve.saved import Saved, Wish, read_saved
from longlive_recipes.serve.scheduler import BlockScheduler
from longlive_recipes.serve.signal import Signal
from longlive_recipes.serve.snapshot_writer import SnapshotWriter
from longlive_recipes.serve.video import ServedVideo
from longlive_recipes.serve.workshop import Making, Workshop

Answer = TypeVar("Answer")
_IDLE = 60.0
"""Seconds after which a session that nobody watches makes room for another one."""


class Studio:
    """The videos of a server.

    All methods run on the event loop; what needs the model, or the state between two blocks, is
    handed to the scheduler's thread.
    """

    def __init__(self, config: Serve, offers: Offers, loop: asyncio.AbstractEventLoop) -> None:
        self.config, self.offers = config, offers
        self.limits = config.limits
        self.closing = False
        self.videos: dict[str, ServedVideo] = {}
        self._loop = loop
        self._folder = config.folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder)
        self.images = Images(self._folder / "images")
        self._workshop = Workshop(offers, self.images, self.limits.seconds)
        self._busy: set[str] = set()
        self._opening = 0
        self._begun: set[str] = set()
        self._scheduler = BlockScheduler()
        self._writer = SnapshotWriter(self._scheduler.wake)
        self._queue = JobQueue(self._begin_job)
        for folder, saved in read_saved(self._folder):
            self._known(self._video(folder, saved))

    def start(self) -> None:
        """Start to make blocks; jobs of an earlier server go on, sessions wait to be resumed."""
        for video in self.videos.values():
            if video.saved.kind == "video" and video.saved.state in ("queued", "running"):
                video.save(lambda saved: replace(saved, state="queued"))
                self._queue.put(video)
        self._scheduler.add(self._queue)
        self._scheduler.start()

    async def stop(self) -> None:
        """Close all videos; those that are not at their end can be resumed."""
        self.end_streams()
        self._scheduler.remove(self._queue)  # or it would begin its next one meanwhile
        for video in list(self.videos.values()):
            if video.open:
                await self._rest(video)
        await asyncio.to_thread(self._scheduler.stop)
        for video in list(self.videos.values()):  # what was being opened
            await asyncio.to_thread(video.finish, signal.SIGTERM)
        self._lock.release()

    def end_streams(self) -> None:
        """End what clients wait for."""
        self.closing = True
        for video in self.videos.values():
            video.signal.give()

    def find(self, name: str, kind: str | None = None) -> ServedVideo:
        """The video with this id. Raises Refused if there is none."""
        video = self.videos.get(name)
        if video is None or (kind is not None and video.saved.kind != kind):
            raise Refused(f"there is no such {kind or 'video'} here: see the list.", 404)
        return video

    def of_kind(self, kind: str) -> list[ServedVideo]:
        """All videos of a kind, newest first."""
        found = [video for video in self.videos.values() if video.saved.kind == kind]
        return sorted(found, key=lambda video: video.saved.created, reverse=True)

    def place(self, video: ServedVideo) -> int | None:
        """How many jobs are before this one; None if it does not wait."""
        return self._queue.place(video)

    def without_paths(self, text: str, video: ServedVideo | None = None) -> str:
        """A text without the folders of this machine: the server's, a video's, the model's."""
        model = Path(self.offers.model)
        if video is not None:
            text = text.replace(f"{video.folder}/", "")
        if model.exists():
            text = text.replace(str(model.resolve()), model.name)
        return text.replace(f"{self._folder}/", "")

    def wake(self) -> None:
        """Let the scheduler look again which videos are wanted."""
        self._scheduler.wake()

    async def create(self, wish: Wish, image: str | None = None) -> ServedVideo:
        """Open a session. Raises Refused or ValueError, before anything is kept."""
        self._check(wish)
        async with self._room() as opening:
            video = self._new("session", wish)
            opening(video)
            try:
                made = await aside(self._workshop.planned, video, image)
                await self._open(video, made)
            except BaseException:
                self._forget(video)
                raise
        return video

    async def submit(self, wish: Wish, image: str | None = None) -> ServedVideo:
        """Put a whole video into the queue. Raises as ``create`` does."""
        self._check(wish)
        if self._queue.waiting >= self.limits.queue:
            raise Refused(
                f"{self._queue.waiting} videos wait, and no more are taken: try again later.", 429
            )
        video = self._new("video", wish)
        try:
            made = await aside(self._workshop.planned, video, image)
        except BaseException:
            self._forget(video)
            raise
        video.save(lambda saved: replace(saved, state="queued", notes=made.notes))
        self._queue.put(video)
        self._scheduler.wake()
        return video

    async def replay(self, record: dict[str, Any], image: str | None = None) -> ServedVideo:
        """Open a session that makes the video of a record again."""
        async with self._room() as opening:
            video = self._new("session", None)
            opening(video)
            try:
                made = await aside(self._workshop.recorded, video, record, image)
                self._check(video.saved.wish)
                await self._open(video, made)
            except BaseException:
                self._forget(video)
                raise
        return video

    def steer(self, video: ServedVideo, command: Command) -> tuple[dict[str, Any], list[str]]:
        """Change the prompt of a session; see ``ServedVideo.steer``."""
        answer = video.steer(command)
        self._scheduler.wake()
        return answer

    async def snapshot(self, video: ServedVideo) -> int:
        """Take a snapshot between two blocks; returns the block that comes after it."""
        kept = await self._between_blocks(video.snapshot)
        return kept.block

    async def fork(
        self, parent: ServedVideo, block: int | None, ending: Command | None
    ) -> ServedVideo:
        """A second ending, from before ``block`` on, or from where the video stands.

        What lies between the nearest snapshot and the block is made again.
        """
        if block is None and parent.open and parent.blocks:
            block = (await self._between_blocks(parent.snapshot)).begun
        block = parent.blocks if block is None else block
        if not 0 <= block <= max(parent.blocks, (parent.facts()["next_block"] or 0)):
            raise Refused(
                f"the video {parent.saved.id} has {parent.blocks} blocks, got block {block}: fork "
                f"it at one of them.",
                409,
            )
        events = [event for event in parent.saved.events if event["block"] < block]
        if ending is not None:
            events.append(_event(block, ending))
        async with self._room() as opening:
            video = self._new("session", parent.saved.wish, parent.saved.id, block)
            opening(video)
            try:
                made = await aside(self._workshop.forked, video, parent, block, events)
                await self._open(video, made)
            except BaseException as error:
                self._forget(video)
                if isinstance(error, ValueError) and not isinstance(error, Refused):
                    raise Refused(str(error), 409) from error
                raise
        return video

    async def resume(self, video: ServedVideo) -> None:
        """Go on with a session that an earlier server, or one without watchers, has left."""
        if video.state != "stopped" or video.saved.id in self._busy:
            raise Refused(
                f"the video {video.saved.id} is {video.state}: only one that was stopped is "
                f"resumed.",
                409,
            )
        self._busy.add(video.saved.id)
        try:
            async with self._room() as opening:
                opening(video)
                made = await aside(self._workshop.resumed, video)
                await self._open(video, made)
        except ValueError as error:
            if isinstance(error, Refused):
                raise
            raise Refused(str(error), 409) from error
        finally:
            self._busy.discard(video.saved.id)

    async def close(self, video: ServedVideo) -> None:
        """End a video: its file is complete, and its record is written."""
        self._scheduler.remove(video)

        def finish() -> None:
            self._queue.remove(video)
            if video.open:
                video.finish()
            elif video.saved.state in ("queued", "running"):
                now = time.time()
                video.save(lambda saved: replace(saved, state="ended", finished=now))

        await self._between_blocks(finish)

    async def delete(self, video: ServedVideo) -> None:
        """End a video, and remove its files."""
        await self.close(video)
        self._forget(video)

    def _begin_job(self, video: ServedVideo) -> None:
        """Open a job of the queue, on the scheduler's thread."""
        started = video.index.fragments or video.shelf.kept
        made = self._workshop.resumed(video) if started else self._workshop.planned(video, None)
        video.begin(made.open(), self._ended, made.notes)

    async def _open(self, video: ServedVideo, made: Making) -> None:
        """Open a planned session on the scheduler's thread, and give it turns."""

        def begin() -> None:
            video.begin(made.open(), self._ended, made.notes)

        await self._between_blocks(begin)
        self._scheduler.add(video)

    async def _between_blocks(self, function: Callable[[], Answer]) -> Answer:
        if self.closing and not self._scheduler.running:
            raise Refused("the server is being stopped.", 503)
        return await asyncio.wrap_future(self._scheduler.call(function))

    def _check(self, wish: Wish) -> None:
        """Raise Refused for what is beyond the limits."""
        steps = wish.steps if isinstance(wish.steps, tuple) else (wish.steps or 1,)
        if max(steps) > self.limits.steps:
            raise Refused(f"a block has {self.limits.steps} steps at most here, got {max(steps)}.")
        seconds = wish.seconds
        total = sum(shot.seconds or 0 for shot in wish.shots) if seconds is None else seconds
        if total > self.limits.seconds:
            raise Refused(f"a video lasts {self.limits.seconds:g} s at most here, got {total:g} s.")

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[Callable[[ServedVideo], None]]:
        """Room for a session that is being opened; it is told which one that is.

        Raises Refused where too many sessions are open and each of them is watched.
        """
        while True:
            if self.closing:
                raise Refused("the server is being stopped.", 503)
            sessions = [
                video
                for video in self.of_kind("session")
                if video.open and video.saved.id not in self._begun  # those are counted below
            ]
            if len(sessions) + self._opening < self.limits.sessions:
                break
            idle = [video for video in sessions if video.credit.idle() > _IDLE]
            if not idle:
                raise Refused(
                    f"{len(sessions)} sessions are open, and no more are taken: close one, or try "
                    f"again later.",
                    429,
                )
            await self._rest(max(idle, key=lambda video: video.credit.idle()))
        self._opening += 1
        names: list[str] = []

        def opening(video: ServedVideo) -> None:
            names.append(video.saved.id)
            self._begun.add(video.saved.id)

        try:
            yield opening
        finally:
            self._opening -= 1
            self._begun.difference_update(names)

    async def _rest(self, video: ServedVideo) -> None:
        """Put a session aside, so that it can be resumed."""
        self._scheduler.remove(video)
        await self._between_blocks(lambda: video.finish(signal.SIGTERM))

    def _new(
        self,
        kind: str,
        wish: Wish | None,
        parent: str | None = None,
        parent_block: int | None = None,
    ) -> ServedVideo:
        name = secrets.token_hex(8)
        folder = self._folder / name
        folder.mkdir()
        saved = Saved(
            id=name,
            kind=kind,
            created=time.time(),
            state="queued",
            wish=wish if wish is not None else Wish(shots=()),
            parent=parent,
            parent_block=parent_block,
        )
        video = self._video(folder, saved)
        self._known(video)
        return video

    def _video(self, folder: Path, saved: Saved) -> ServedVideo:
        return ServedVideo(folder, saved, self.limits, Signal(self._loop), self._writer)

    def _known(self, video: ServedVideo) -> None:
        self.videos[video.saved.id] = video

    def _forget(self, video: ServedVideo) -> None:
        self.videos.pop(video.saved.id, None)
        shutil.rmtree(video.folder, ignore_errors=True)
        video.signal.give()

    def _ended(self, video: ServedVideo) -> None:
        """A video has ended, on the scheduler's thread."""
        self._scheduler.remove(video)
        self._queue.remove(video)
        if video.saved.kind == "video":
            video.shelf.clear()  # nobody forks it
        room = self.limits.snapshot_mb << 20
        for other in self.of_kind("session"):  # newest first: the oldest lose their snapshots
            if not other.open and other.saved.state == "ended":
                room -= other.shelf.size
                if room < 0:
                    other.shelf.clear()


def _event(block: int, ending: Command) -> dict[str, Any]:
    if block == 0 and ending.kind in ("cut", "forget"):
        raise Refused("a cut at block 0 has nothing to cut from: fork it at a later block.", 409)
    cut = ending.kind in ("cut", "forget")
    return {
        "block": block,
        "text": ending.text,
        "memory": "cut" if cut else ending.kind,
        "forget": ending.kind == "forget",
    }


def _locked(folder: Path) -> FileLock:
    try:
        return FileLock(folder)
    except ValueError as error:
        raise ValueError(
            f"{folder} is used by another server: two would write the same files. Name another "
            f"--output, or stop that one."
        ) from error
