"""Streaming generation: prompts in, video files out, block by block.

Every block is in the file when it is reported. A run that is interrupted or killed leaves a
playable video of the blocks so far.

Command:  longlive generate "a red circle moves right on a navy background" -o circle.mp4
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from longlive_models.callbacks import StepReport
from longlive_models.video.blocks import Timing
from longlive_recipes.configs.generate import Generate as Generate
from longlive_recipes.configs.generate import Snapshots as Snapshots
from longlive_recipes.configs.generate import VideoJob as VideoJob
from longlive_recipes.generation.interrupts import Interrupts, signal_of
from longlive_recipes.generation.plan import Plan as Plan
from longlive_recipes.generation.plan import PlannedVideo as PlannedVideo
from longlive_recipes.generation.plan import plan as plan
from longlive_recipes.generation.plan import warn_of_plan as warn_of_plan
from longlive_recipes.generation.session import VideoSession, load_pipeline, open_video_session
from longlive_recipes.generation.sidecar import Result as Result
from longlive_recipes.generation.sidecar import peak_memory
from longlive_recipes.generation.trace_file import TraceFile


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """The report of a block that was written, block ``index``, from 0, of ``blocks``.

    Blocks of a clip that the video goes on from are not counted, as their frames are not.
    ``frames_before`` were in the file before the run, ``timing`` has the seconds of the block's
    parts, and ``memory`` the peak so far in bytes (0: not measured).
    """

    job: VideoJob
    index: int
    blocks: int
    frames_done: int
    frames_total: int
    seconds: float
    frames_before: int = 0
    timing: Timing | None = None
    memory: int = 0


Progress = Callable[[BlockReport], None]
"""Called with a report for each block of each video."""

StepProgress = Callable[[str, StepReport], None]
"""Called with the name of a video and each of its denoising steps."""


def run(
    config: Generate,
    jobs: Sequence[VideoJob],
    output: Path,
    *,
    progress: Progress | None = None,
    on_step: StepProgress | None = None,
    overwrite: bool = False,
    snapshots: Snapshots | None = None,
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Generate the videos of all jobs in turn; ``done`` is called with the result of each.

    An interrupt closes the file, which is playable, and ends the run. With ``snapshots``, it first
    waits for the block that is being made and saves a snapshot, from which the video can be
    continued; a second interrupt does not wait.

    Raises:
        ValueError, BackendUnavailable: what ``plan`` raises.
        KeyboardInterrupt: an interrupt came before the first block of a video. The videos before
            it are complete; a note on the error says so, as on any other error.
    """
    began = time.perf_counter()
    planned = plan(config, jobs, output, overwrite, snapshots)
    return run_plan(
        planned,
        jobs,
        began=began,
        progress=progress,
        on_step=on_step,
        overwrite=overwrite,
        snapshots=snapshots,
        done=done,
    )


def run_plan(
    planned: Plan,
    jobs: Sequence[VideoJob],
    *,
    began: float,
    progress: Progress | None = None,
    on_step: StepProgress | None = None,
    overwrite: bool = False,
    snapshots: Snapshots | None = None,
    done: Callable[[Result], None] | None = None,
    trace: TraceFile | None = None,
) -> list[Result]:
    """As ``run``, for a plan.

    ``began`` is when the user started to wait, by ``time.perf_counter``; ``trace`` is given what
    was done when for each video.
    """
    pipeline = load_pipeline(planned)
    results: list[Result] = []
    for named, video in zip(jobs, planned.videos, strict=True):
        job = replace(named, name=video.name)
        told = None if on_step is None else partial(on_step, video.name)
        try:
            session = open_video_session(
                pipeline, planned, job, video, overwrite=overwrite, began=began, on_step=told
            )
            result = generate_one(session, job, progress, snapshots)
        except (Exception, KeyboardInterrupt) as error:
            if results:
                error.add_note(f"{len(results)} of {len(jobs)} videos were made before that.")
            raise
        results.append(result)
        if trace is not None:
            trace.add(video.name, session.trace)
        if done is not None:
            done(result)
        if result.interrupted:
            break
        began = time.perf_counter()
    return results


def generate_one(
    session: VideoSession, job: VideoJob, progress: Progress | None, snapshots: Snapshots | None
) -> Result:
    """Generate one video, to its end or to an interrupt.

    After an error behind the first block, the video so far and its record are kept; a note on the
    error, which is raised, says so.
    """
    stopped_by, saved = 0, None
    with session, Interrupts(wait=snapshots is not None) as interrupts:
        try:
            while (block := session.advance()) is not None:
                if progress is not None:
                    progress(_report(session, job, block.timing))
                stopped_by = interrupts.asked if session.frames != session.video.frames else 0
                if snapshots is not None and (
                    stopped_by or (snapshots.every and session.blocks % snapshots.every == 0)
                ):
                    session.snapshot(snapshots.path)
                    saved = snapshots.path
                if stopped_by:
                    break
        except KeyboardInterrupt as interrupt:
            if not session.frames_made:
                raise
            stopped_by = signal_of(interrupt)
        except Exception as error:
            if session.frames_made:
                error.add_note(session.keep(error, saved))
            raise
    return session.finish(stopped_by=stopped_by, snapshot=saved if stopped_by else None)


def _report(session: VideoSession, job: VideoJob, timing: Timing) -> BlockReport:
    plan = session.stream.plan
    return BlockReport(
        job=job,
        index=session.blocks - 1 - plan.past,
        blocks=plan.blocks - plan.past,
        frames_done=session.frames,
        frames_total=plan.new_frames,
        seconds=time.perf_counter() - session.began,
        frames_before=session.frames - session.frames_made,
        timing=timing,
        memory=peak_memory(session.pipeline.runtime.device),
    )
