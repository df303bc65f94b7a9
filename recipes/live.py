"""Making a video that is steered by commands while it is being written. Prints nothing itself.

Commands may come from any thread. Those that steer take effect at once; a snapshot or a fork,
which needs the state between two blocks, waits for the block that is being made.

Command:  longlive live "a red circle moves right on a navy background"
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longlive_models.callbacks import OnStep
from longlive_models.video.file_name import destination
from longlive_recipes.configs.generate import VideoJob
from longlive_recipes.generation.commands import HELP, STEERING, Command, in_line, parse, steer
from longlive_recipes.generation.inputs import Named
from longlive_recipes.generation.interrupts import Interrupts, signal_of
from longlive_recipes.generation.outputs import check_fork, check_snapshot, inputs, sidecar_path
from longlive_recipes.generation.plan import Plan
from longlive_recipes.generation.session import VideoSession, load_pipeline, open_video_session
from longlive_recipes.generation.sidecar import Result, peak_memory

_RECENT = 5


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a video after a block.

    Attributes:
        block: the number of the newest block in the file.
        seconds: the length so far, at the model's own rate, like the times of commands.
        total: the length that it will have, in seconds; None for a video without an end.
        speed: frames a second of the last blocks; 0 before there are two.
        prompt: the prompt of the newest block.
        window: the pages in the cache, each as "sink", "anchor" or "recent".
        memory: the peak of memory in use, in bytes.
    """

    block: int
    seconds: float
    total: float | None
    speed: float
    prompt: str
    window: tuple[tuple[int, str], ...]
    memory: int


class LiveSession:
    """A video that is being written, its forks, and the commands for them.

    Args:
        session: the session of the video, at its first block.
        tell: called with a line of text for every command, on the thread that it came from.
        snapshot: the file for the state if the session is stopped before the video ends.
        overwrite: replace files that exist.
        reads: files that the video is made from, which no command may overwrite.
        script: whether lines are those of a script: the first that cannot be carried out ends the
            video, as nobody is there to give another. Otherwise its error is told, and no more.
    """

    def __init__(
        self,
        session: VideoSession,
        *,
        tell: Callable[[str], None],
        snapshot: Path | None = None,
        overwrite: bool = False,
        reads: Sequence[Named] = (),
        script: bool = False,
    ) -> None:
        self._reads = reads
        self._script = script
        self._lines = 0
        self._refused: ValueError | None = None
        self._sessions = [session]
        self._tell = tell
        self._snapshot = snapshot
        self._overwrite = overwrite
        self._waiting: list[Command] = []
        self._written: Path | None = None
        self._stop = self._no_more = False
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()

    def receive(self, line: str) -> None:
        """Carry out a line with a command, or keep it until the end of the block or its time."""
        self._lines += 1
        try:
            command = parse(line)
            if command is not None:
                self._accept(replace(command, line=self._lines))
        except ValueError as error:
            self._refuse(self._lines, error)

    def end_of_input(self) -> None:
        """Tell that no lines will follow: an endless video stops after the last command's block."""
        self._no_more = True

    def run(self, show: Callable[[Status], None]) -> list[Result]:
        """Make blocks until the video ends, or is stopped; one result for each
        file that got a block.

        Raises:
            KeyboardInterrupt: an interrupt before the first block.
            ValueError: a line of a script that was refused, or not carried out before the end.
        """
        main, stopped_by = self._sessions[0], 0
        try:
            with Interrupts(wait=self._snapshot is not None) as interrupts:
                try:
                    while not interrupts.asked and self._advance(show):
                        pass
                    if not interrupts.asked:
                        self._check_script()
                except KeyboardInterrupt as interrupt:
                    if not main.frames_made:
                        raise
                    stopped_by = signal_of(interrupt)
                except Exception as error:
                    for session in self._sessions:
                        if session.frames_made:
                            error.add_note(session.keep(error))
                    raise
                else:
                    stopped_by = interrupts.asked if main.frames != main.video.frames else 0
                    if self._snapshot is not None and (stopped_by or self._stop):
                        self._write_snapshot(self._snapshot)
        finally:
            for text in self._undone():
                self._tell(text)
            for session in self._sessions:
                session.close()
        written = [session for session in self._sessions if session.frames_made]
        return [
            session.finish(
                stopped_by=stopped_by, snapshot=self._written if session is main else None
            )
            for session in written
        ]

    def status(self, prompt: str) -> Status:
        """The state of the main video."""
        session = self._sessions[0]
        settings, start = session.pipeline.settings, session.stream.shot_start
        anchors = range(start, start + settings.shot_sink)
        first, last = self._marks[0], self._marks[-1]
        frames = session.video.frames
        return Status(
            block=session.blocks - 1,
            seconds=session.frames / session.planned.model_fps,
            total=None if frames is None else frames / session.planned.model_fps,
            speed=(last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0,
            prompt=prompt,
            window=tuple(
                (page, _role(page, settings.sink, anchors)) for page in session.stream.pages
            ),
            memory=peak_memory(session.pipeline.runtime.device),
        )

    def _accept(self, command: Command) -> None:
        if command.kind == "help":
            for usage, what in HELP.items():
                self._tell(f"{usage}: {what}")
        elif command.kind in STEERING:
            stream = self._sessions[0].stream
            self._tell(_described(steer(stream, command), stream.plan.timing.seconds))
        else:
            with self._lock:
                self._waiting.append(command)

    def _advance(self, show: Callable[[Status], None]) -> bool:
        """Carry out commands that are due, and make a block; returns whether there is more."""
        main = self._sessions[0]
        for command in self._due():
            try:
                self._do(command)
            except (ValueError, OSError) as error:
                self._refuse(command.line, error)
        if self._stop or self._refused or self._is_over():
            return False
        block = main.advance()
        for fork in self._sessions[1:]:
            fork.advance()
        if block is None:
            return False
        self._marks.append((time.perf_counter(), main.frames))
        show(self.status(block.prompt.text))
        return True

    def _due(self) -> list[Command]:
        """Take out what waits for no time, or for the edge of a block that has been reached."""
        with self._lock:
            due = [command for command in self._waiting if self._is_due(command)]
            self._waiting = [command for command in self._waiting if command not in due]
        return due

    def _is_due(self, command: Command) -> bool:
        session = self._sessions[0]
        edge = (
            session.stream.plan.timing.blocks_nearest(command.at, opening=True) if command.at else 0
        )
        return edge <= session.blocks

    def _is_over(self) -> bool:
        main = self._sessions[0]
        if not (self._no_more and main.stream.plan.endless and main.frames_made):
            return False
        last = max((event["block"] for event in main.stream.events), default=0)
        return not self._waiting and main.blocks > last

    def _do(self, command: Command) -> None:
        if command.kind == "quit":
            self._stop = True
            return
        assert command.file is not None
        if command.kind == "snapshot":
            check_snapshot(command.file, self._in_use(), self._overwrite, allowed=self._written)
            self._write_snapshot(command.file)
        else:
            self._fork(command.file, command.then)

    def _refuse(self, line: int, error: Exception) -> None:
        """Tell a person why a line is refused; of a script's lines the first one ends the video."""
        if not self._script:
            self._tell(" ".join(str(error).split()))
        elif self._refused is None:
            self._refused = in_line(line, error)

    def _check_script(self) -> None:
        """Raise ValueError for a line of a script that was refused or not carried out."""
        if self._refused is not None:
            raise self._refused
        if self._script and (undone := self._undone()):
            raise ValueError(" ".join(undone))

    def _undone(self) -> list[str]:
        """Let go of commands not carried out before the end and of forks without a block, each
        named in a sentence.
        """
        with self._lock:
            left, self._waiting = self._waiting, []
        texts = []
        for command in left:
            if command.kind != "quit":
                when = "" if command.at is None else f" at {command.at:g} s"
                text = f"/{command.kind} {command.file}{when}: not done, the video ended first"
                texts.append(f"line {command.line} of the input: {text}" if self._script else text)
        for fork in [session for session in self._sessions[1:] if not session.frames_made]:
            fork.close()
            self._sessions.remove(fork)
            texts.append(f"{fork.video.path}: not written, the video ended before its next block")
        return texts

    def _in_use(self) -> list[Named]:
        """Files that no command may overwrite: inputs, and the files that this session writes."""
        paths = [session.video.path for session in self._sessions]
        videos = [("a video that is being written", destination(path)) for path in paths]
        records = [("the record of a video here", sidecar_path(path)) for path in paths]
        return [*self._reads, *videos, *records]

    def _write_snapshot(self, path: Path) -> None:
        self._sessions[0].snapshot(path)
        self._written = path
        self._tell(f"{path}: go on from here with longlive generate --resume {path}")

    def _fork(self, path: Path, then: Command | None) -> None:
        main = self._sessions[0]
        if path.suffix.lower() != main.video.path.suffix.lower():
            raise ValueError(
                f"{path} cannot begin with the frames of {main.video.path}: they are copied as "
                f"they are. Give it the same suffix."
            )
        if destination(path) in [destination(session.video.path) for session in self._sessions]:
            raise ValueError(f"{path} is being written already: name another file.")
        check_fork(path, self._in_use(), self._overwrite)
        if not main.frames:
            raise ValueError(
                f"a fork begins with the frames so far, and there are none yet: give {path} after "
                f"the first block."
            )
        fork = main.fork(path)
        if then is not None:
            steer(fork.stream, then)
        self._sessions.append(fork)
        self._tell(f"{path}: a second ending from {main.frames / main.planned.model_fps:.1f} s on")


def open_live_session(
    planned: Plan,
    job: VideoJob,
    *,
    tell: Callable[[str], None],
    on_step: OnStep | None = None,
    snapshot: Path | None = None,
    overwrite: bool = False,
    reads: Sequence[Named] = (),
    script: bool = False,
) -> LiveSession:
    """Load the model of a plan for one video, and open its session at the first block.

    ``script`` is as ``LiveSession`` has it.
    """
    began = time.perf_counter()
    pipeline = load_pipeline(planned)
    [video] = planned.videos
    session = open_video_session(
        pipeline, planned, job, video, overwrite=overwrite, began=began, on_step=on_step
    )
    read = [*reads, *inputs(planned.config, [job])]
    return LiveSession(
        session, tell=tell, snapshot=snapshot, overwrite=overwrite, reads=read, script=script
    )


def _role(page: int, sink: int, anchors: range) -> str:
    return "sink" if page < sink else "anchor" if page in anchors else "recent"


def _described(event: dict[str, Any], seconds: Callable[[int], float]) -> str:
    memory = "forget" if event["forget"] else event["memory"]
    block = event["block"]
    return f"from block {block} on ({seconds(block):.1f} s), {memory}: {event['text']}"
