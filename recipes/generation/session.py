"""VideoSession: a video that is being written, with its stream, its file and its record."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.callbacks import OnStep
from longlive_models.checkpoints.weight_hash import begin_hashing
from longlive_models.pipeline import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.stream import Stream
from longlive_models.stream_snapshot import StreamSnapshot, snapshot_place
from longlive_models.trace import ENCODE, Span
from longlive_models.video.append import VideoStart
from longlive_models.video.blocks import VideoBlock
from longlive_models.video.files import VideoWriter, destination
from longlive_recipes.configs.generate import VideoJob
from longlive_recipes.generation.commands import steer
from longlive_recipes.generation.file_lock import FileLock, reserve
from longlive_recipes.generation.outputs import sidecar_path
from longlive_recipes.generation.plan import Plan, PlannedVideo, settled
from longlive_recipes.generation.sidecar import Result, peak_memory, video_record
from longlive_recipes.run_record import as_plain, replace_file


class VideoSession:
    """A video that is written block by block; closing it ends the stream and the file.

    Args:
        pipeline: the pipeline that makes it.
        planned: the plan of all videos of the run.
        video: the plan of this video.
        stream: its stream, at the first block to be written.
        overwrite: replace a file that exists.
        began: when the user started to wait, by ``time.perf_counter``.
        blocks: how many blocks are before that first one.
    """

    def __init__(
        self,
        pipeline: LongLivePipeline,
        planned: Plan,
        video: PlannedVideo,
        stream: Stream,
        *,
        overwrite: bool,
        began: float,
        blocks: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.planned = planned
        self.video = video
        self.stream = stream
        self.began = began
        self.blocks = blocks
        self._overwrite = overwrite
        self._lock: FileLock | None = None
        self._first = 0.0
        self._timings: list[dict[str, Any]] = []
        self._encoded: list[Span] = []
        self._writer = VideoWriter(
            video.path,
            fps=planned.fps,
            size=(pipeline.settings.height, pipeline.settings.width),
            overwrite=overwrite,
            start=video.start,
            crf=planned.crf,
        )
        self._before = self._writer.frames

    @property
    def frames(self) -> int:
        """The number of frames in the file, those before this session included."""
        return self._writer.frames

    @property
    def frames_made(self) -> int:
        """The number of frames that this session wrote."""
        return self._writer.frames - self._before

    @property
    def trace(self) -> list[Span]:
        """What was done when for the blocks that this session wrote."""
        return [*self.stream.trace, *self._encoded]

    def advance(self) -> VideoBlock | None:
        """Make and write the next block; returns None at the end."""
        block = next(self.stream, None)
        if block is None:
            return None
        self.video.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(block)
        self.blocks = block.index + 1
        self._first = self._first or time.perf_counter() - self.began
        self._timings.append({"block": block.index, **as_plain(block.timing)})
        return block

    def _write(self, block: VideoBlock) -> None:
        """Append a block; the first one also locks the file."""
        path = destination(self.video.path)
        if self._lock is None and (self._overwrite or path.exists()):
            self._lock = reserve(path, folder=path != self.video.path)
        start = time.perf_counter()
        self._writer.write(block.frames)
        end = time.perf_counter()
        self._encoded.append(Span(lane=ENCODE, block=block.index, start=start, end=end))
        self._lock = self._lock or FileLock(path)

    def snapshot(self, path: Path) -> None:
        """Save the state to a snapshot that ``longlive generate --resume`` can continue."""
        path.parent.mkdir(parents=True, exist_ok=True)
        snapshot_place(path)
        self.state().save(path)

    def state(self) -> StreamSnapshot:
        """The state that ``snapshot`` writes; another thread may save it while blocks are made."""
        config = as_plain(settled(self.planned))
        video = str(destination(self.video.path).resolve())
        notes = {"config": config, "video": video, "image": as_plain(self.video.image)}
        notes |= {"image_sha256": self.video.image_sha256, "clip": as_plain(self.video.clip)}
        return self.stream.state(notes=notes)

    def fork(self, path: Path) -> "VideoSession":
        """Make a second session that begins with the same frames and is written to ``path``."""
        start = VideoStart(path=destination(self.video.path), frames=self.frames)
        video = replace(self.video, name=path.stem, path=path, start=start)
        return VideoSession(
            self.pipeline,
            self.planned,
            video,
            self.stream.fork(),
            overwrite=self._overwrite,
            began=time.perf_counter(),
            blocks=self.blocks,
        )

    def finish(
        self, *, stopped_by: int = 0, failure: str | None = None, snapshot: Path | None = None
    ) -> Result:
        """Close the file and write its record.

        Args:
            stopped_by: the number of the signal that ended it early, or 0.
            failure: the error that ended it early, as text.
            snapshot: the file that it can be continued from.
        """
        self.close()
        result = Result(
            path=destination(self.video.path),
            sidecar=sidecar_path(self.video.path),
            frames=self.frames,
            frames_made=self.frames_made,
            blocks=self.blocks,
            fps=self.planned.fps,
            seconds_to_first_frame=self._first,
            wall_seconds=time.perf_counter() - self.began,
            peak_memory_bytes=peak_memory(self.pipeline.runtime.device),
            backends=(
                *in_short(self.pipeline.receipts()),
                f"decode lane: {self.pipeline.runtime.lane}",
            ),
            interrupted=bool(stopped_by) or failure is not None,
            signal=stopped_by,
            failure=failure,
            snapshot=snapshot,
        )
        record = video_record(
            result, self.planned, self.video, self.pipeline, self.stream, self._timings
        )
        replace_file(result.sidecar, json.dumps(record, indent=2) + "\n")
        return result

    def keep(self, error: Exception, snapshot: Path | None = None) -> str:
        """Close the file after a failure and write its record; returns what is kept, in words."""
        failure = f"{type(error).__name__}: {error}"
        kept = f"{destination(self.video.path)} keeps the {self.frames} frames before that"
        try:
            self.finish(failure=failure, snapshot=snapshot)
        except OSError as again:
            return f"{kept}, without a record ({again.strerror})."
        more = f"; go on with: longlive generate --resume {snapshot}" if snapshot else ""
        return f"{kept}, with its record{more}."

    def close(self) -> None:
        """End the stream and the file; what was written stays."""
        self.stream.close()
        self._writer.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "VideoSession":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_video_session(
    pipeline: LongLivePipeline,
    planned: Plan,
    job: VideoJob,
    video: PlannedVideo,
    *,
    overwrite: bool,
    began: float,
    on_step: OnStep | None = None,
) -> VideoSession:
    """Open the session of a job at its first block, from its prompts or its snapshot."""
    blocks = 0
    if job.resume_point is None:
        stream = open_stream(pipeline, planned, job, on_step=on_step)
        blocks = stream.plan.past
    else:
        stream = pipeline.resume(job.resume_point.snapshot, on_step=on_step)
        blocks = job.resume_point.summary.block
    if job.ending is not None:
        steer(stream, job.ending)
    return VideoSession(
        pipeline, planned, video, stream, overwrite=overwrite, began=began, blocks=blocks
    )


def open_stream(
    pipeline: LongLivePipeline, planned: Plan, job: VideoJob, *, on_step: OnStep | None = None
) -> Stream:
    """Open the stream of a job that starts from prompts."""
    return pipeline.stream(
        job.story,
        seconds=planned.config.seconds,
        seed=job.seed,
        sampler=planned.sampler,
        steps=planned.steps,
        guidance=planned.guidance,
        negative_prompt=planned.negative_prompt,
        image=job.image,
        video=None if job.clip is None else job.clip.path,
        cut=job.clip is not None and job.clip.cut,
        video_prompt=None if job.clip is None else job.clip.prompt,
        events=job.events,
        on_step=on_step,
    )


def load_pipeline(planned: Plan, group: SequenceGroup | None = None) -> LongLivePipeline:
    """Load the model of a plan; it is shared by the ranks of ``group``, if one is given.

    Its files are hashed for the record while the video is made.
    """
    group = SequenceGroup() if group is None else group
    pipeline = LongLivePipeline.load(
        planned.config.model,
        planned.runtime,
        download=planned.config.download,
        group=group,
        files=planned.files,
    )
    if group.rank == 0:
        begin_hashing(pipeline.loaded_files)
    return pipeline
