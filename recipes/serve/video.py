"""A video of a server: what makes its blocks, and what those who watch it are told."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from longlive_models.prompts.report import lines_about, not_shown
from longlive_models.prompts.text import require_prompt
from longlive_models.video.fragments import FragmentIndex, codec_name
from longlive_recipes.configs.serve import Limits
from longlive_recipes.generation.commands import Command, steer
from longlive_recipes.generation.outputs import sidecar_path
from longlive_recipes.generation.session import VideoSession
from longlive_recipes.generation.sidecar import peak_memory
from longlive_recipes.serve.credit import Credit
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.saved import SNAPSHOTS, VIDEO, Saved
from longlive_recipes.serve.shelf import Kept, Shelf
from longlive_recipes.serve.signal import Signal
from longlive_recipes.serve.snapshot_writer import SnapshotWriter

_log = logging.getLogger(__name__)

MOST_EVENTS = 10_000
"""The most changes of one video: each is in its record."""
_RECENT = 8
ENDLESS = 1 << 40


class ServedVideo:
    """A video in a server's folder: one that is being made, or one that was.

    ``advance`` and the methods that say so run on the scheduler's thread; all others on any.

    Args:
        folder: the folder of the video.
        saved: what is written down of it.
        limits: those of the server.
        signal: given after each change.
        writer: what writes snapshots meanwhile; one of its own unless given.
    """

    def __init__(
        self,
        folder: Path,
        saved: Saved,
        limits: Limits,
        signal: Signal,
        writer: SnapshotWriter | None = None,
    ) -> None:
        self.folder = folder
        self.saved = saved
        self.signal = signal
        self.index = FragmentIndex(folder / VIDEO)
        self.index.refresh()
        self.shelf = Shelf(
            folder / SNAPSHOTS,
            every=limits.snapshot_every,
            most_bytes=limits.snapshot_mb << 20,
        )
        watched = saved.kind == "session"
        self.credit = Credit(limits.ahead, first=1 if watched else ENDLESS)
        self.session: VideoSession | None = None
        self.backends: list[str] = []
        self.made_at: dict[int, float] = {}
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self._ended_by: Callable[[ServedVideo], None] | None = None
        self._memory = 0
        self._saving = threading.Lock()
        self._writer = SnapshotWriter() if writer is None else writer
        self._written: Future[None] | None = None

    @property
    def path(self) -> Path:
        """The mp4."""
        return self.folder / VIDEO

    @property
    def record(self) -> Path:
        """The record beside it, which is written when the video ends."""
        return sidecar_path(self.path)

    @property
    def blocks(self) -> int:
        """How many blocks are in the file."""
        return len(self.index.fragments)

    @property
    def open(self) -> bool:
        """Whether it is being made, though perhaps not at this moment."""
        return self.session is not None

    @property
    def state(self) -> str:
        """One of queued, running, paused, stopped (a server before this one made it), ended and
        failed."""
        if self.saved.state == "running":
            if self.session is None:
                return "stopped"
            return "running" if self.ready() else "paused"
        return self.saved.state

    def begin(
        self,
        session: VideoSession,
        ended: Callable[["ServedVideo"], None],
        notes: Sequence[str] = (),
    ) -> None:
        """Start with the blocks of a session; ``ended`` is called when there are no more.

        ``notes`` are what is to be said of the video.
        """
        self.index = FragmentIndex(self.path)  # a file that goes on was cut to the snapshot
        self.index.refresh()
        if self.saved.kind == "session":
            self.credit.grant(session.blocks + 1)
        self.session = session
        self._ended_by = ended
        self._marks.clear()
        shots, events = _starts(session.video.shots), tuple(session.stream.events)
        self.save(
            lambda saved: replace(
                saved,
                state="running",
                error=None,
                finished=None,
                shots=shots,
                events=events,
                notes=tuple(notes),
            )
        )

    def save(self, change: Callable[[Saved], Saved]) -> None:
        """Write down what has changed, and tell all who watch."""
        with self._saving:
            self.saved = change(self.saved)
            self.saved.write(self.folder)
        self.signal.give()

    def ready(self) -> bool:
        """Whether it wants a turn: it is open, and somebody wants a block, or a snapshot failed."""
        session = self.session
        return session is not None and (
            session.blocks < self.credit.blocks or self._failure() is not None
        )

    def turn(self) -> None:
        """Make one block, on the scheduler's thread."""
        session = self.session
        if session is None:
            return
        try:
            self._require_written()
            block = session.advance()
            if block is not None:
                self._keep(session)
        except Exception as error:
            self._failed(session, error)
            return
        if block is None or session.frames == session.video.frames:
            self.finish()
        self.signal.give()

    def steer(self, command: Command) -> tuple[dict[str, Any], list[str]]:
        """Change the prompt; returns the event, and lines on what of it the model leaves out.

        Raises:
            Refused: the video is not being made, or has been changed too often.
            ValueError: what the stream refuses.
        """
        session = self.session
        if session is None:
            raise self.not_open("steered")
        if len(session.stream.events) >= MOST_EVENTS:
            raise Refused(f"a video is changed {MOST_EVENTS:,} times at most: fork it.", 429)
        require_prompt(command.text)
        try:
            event = steer(session.stream, command)
        except ValueError as error:  # its time is past, or the video has ended
            raise Refused(str(error), 409) from error
        self.credit.grant(event["block"] + 1)
        self.save(lambda saved: replace(saved, events=tuple(session.stream.events)))
        reader = session.pipeline.text
        text = session.stream.plan.prompt(event["text"], shot=0, cut=event["memory"] == "cut").text
        return event, lines_about(not_shown(reader, [(event["text"], text)]), reader)

    def not_open(self, what: str) -> Refused:
        """The refusal of what only a video that is being made can do."""
        more = "resume it first" if self.state == "stopped" else "fork it, or make another"
        return Refused(
            f"the video {self.saved.id} is {self.state} and cannot be {what}: {more}.", 409
        )

    def snapshot(self) -> Kept:
        """Take a snapshot now, on the scheduler's thread."""
        session = self.session
        if session is None:
            raise self.not_open("saved in a snapshot")
        try:
            self._wait_until_written()
            kept = self._snapshot(session)
        except OSError as error:
            raise Refused(sentence(error), 507) from error
        if kept is None:
            raise Refused(
                "a snapshot of this model is larger than all that one video may keep: start the "
                "server with a larger --snapshot-mb.",
                409,
            )
        return kept

    def finish(self, stopped_by: int = 0) -> None:
        """Close the file and write the record, on the scheduler's thread.

        A video that a signal stopped keeps a snapshot, and can be resumed.
        """
        session = self.session
        if session is None:
            return
        try:
            self._wait_until_written()
            kept = self._snapshot(session) if stopped_by and session.frames_made else None
            if session.frames:
                session.finish(stopped_by=stopped_by, snapshot=kept.path if kept else None)
            session.close()
        except Exception as error:
            self._failed(session, error)
            return
        if not stopped_by:
            self._end(state="ended")
        self.session = None
        self.signal.give()

    def fail(self, error: Exception) -> None:
        """Note that the video could not be begun."""
        self._end(state="failed", error=sentence(error))

    def facts(self) -> dict[str, Any]:
        """What is told of the video, as values for JSON."""
        saved, fragments, session = self.saved, self.index.fragments, self.session
        facts = {
            "id": saved.id,
            "kind": saved.kind,
            "state": self.state,
            "created": saved.created,
            "finished": saved.finished,
            "prompt": saved.wish.shots[0].prompt,
            "seed": saved.wish.seed,
            "parent": saved.parent,
            "parent_block": saved.parent_block,
            "error": saved.error,
            "notes": list(saved.notes),
            "blocks": len(fragments),
            "frames": self.index.frames,
            "bytes": self.index.end,
            "codec": self.codec(),
            "shots": list(saved.shots),
            "events": list(saved.events),
            "snapshots": [kept.block for kept in self.shelf.kept],
            "has_record": self.record.is_file(),
            "fps_made": self._speed(),
            "watchers": self.credit.watchers,
            "memory": self._memory,
            "backends": self.backends,
            "next_block": None if session is None else session.stream.next_block,
            "frames_total": None if session is None else session.video.frames,
        }
        return facts

    def codec(self) -> str | None:
        """The name of the codec; None while there is no block."""
        return codec_name(self.index.read_header()) if self.index.fragments else None

    def _keep(self, session: VideoSession) -> None:
        """What is done after each block."""
        now = time.time()
        for fragment in self.index.refresh():
            self.made_at[fragment.index] = now
        for old in [block for block in self.made_at if block < self.blocks - 1000]:
            del self.made_at[old]
        self._marks.append((time.perf_counter(), session.frames))
        if not self.backends:
            self.backends = [*backends(session)]
        self._memory = peak_memory(session.pipeline.runtime.device)
        self.signal.give()
        if session.frames != session.video.frames and self.shelf.due(session.blocks):
            self._snapshot_meanwhile(session)

    def _snapshot(self, session: VideoSession) -> Kept | None:
        return self.shelf.put(session.blocks, session.stream.next_block, session.snapshot)

    def _snapshot_meanwhile(self, session: VideoSession) -> None:
        """Copy the state, and let it be written while the next block is made."""
        self._wait_until_written()
        block, begun, state = session.blocks, session.stream.next_block, session.state()

        def write() -> None:
            self.shelf.put(block, begun, state.save)
            self.signal.give()

        self._written = self._writer.write(write)

    def _failure(self) -> BaseException | None:
        """Why the last snapshot could not be written; None if it was, or is not yet."""
        written = self._written
        return written.exception() if written is not None and written.done() else None

    def _require_written(self) -> None:
        """Raise the error of the last snapshot, if it has ended with one."""
        failure = self._failure()
        if failure is not None:
            raise failure

    def _wait_until_written(self) -> None:
        """Wait for the last snapshot. Raises its error."""
        if self._written is not None:
            wait([self._written])
        self._require_written()

    def _speed(self) -> float:
        marks = list(self._marks)
        if len(marks) < 2 or self.session is None:
            return 0.0
        (began, before), (ended, after) = marks[0], marks[-1]
        return (after - before) / (ended - began) if ended > began else 0.0

    def _failed(self, session: VideoSession, error: Exception) -> None:
        _log.error("the video %s failed: %s: %s", self.saved.id, type(error).__name__, error)
        if self._written is not None:
            wait([self._written])  # nothing is written into the folder from now on
            self._written = None
        if session.frames_made:
            session.keep(error)
        session.close()
        self._end(state="failed", error=sentence(error))
        self.session = None
        self.signal.give()

    def _end(self, *, state: str, error: str | None = None) -> None:
        now = time.time()
        self.save(lambda saved: replace(saved, state=state, error=error, finished=now))
        ended, self._ended_by = self._ended_by, None
        if ended is not None:
            ended(self)


def backends(session: VideoSession) -> list[str]:
    """What runs the blocks of a session, in lines."""
    from longlive_models.precision import in_short

    pipeline = session.pipeline
    return [*in_short(pipeline.receipts()), f"decode lane: {pipeline.runtime.lane}"]


def sentence(error: Exception) -> str:
    """An error as one sentence, without the paths of this machine."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"the file could not be written: {error.strerror or type(error).__name__}."
    return f"internal error ({type(error).__name__}): the server's log says more."


def _starts(shots: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The prompts of a plan, each with the block where it begins."""
    found, block = [], 0
    for shot in shots:
        found.append({"block": block, "text": shot["prompt"]})
        block += shot["blocks"] or 0
    return tuple(found)
