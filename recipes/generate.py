"""Streaming generation: prompts in, video files out, block by block.

Every block is in the file when it is reported. A run that is interrupted or killed leaves a
playable video of the blocks so far.

Command:  longlive generate "a red circle moves right on a navy background" -o circle.mp4
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longlive_models.pipeline import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.shots import ShotPlan
from longlive_models.video import VideoWriter, destination
from longlive_recipes.generate_plan import Generate as Generate
from longlive_recipes.generate_plan import Job as Job
from longlive_recipes.generate_plan import Plan as Plan
from longlive_recipes.generate_plan import PlannedVideo as PlannedVideo
from longlive_recipes.generate_plan import plan as plan
from longlive_recipes.generate_plan import sidecar_path
from longlive_recipes.run_record import as_plain
from longlive_recipes.video_record import Result as Result
from longlive_recipes.video_record import peak_memory, video_record


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """A block is in the file."""

    job: Job
    index: int
    blocks: int
    frames_done: int
    frames_total: int
    seconds: float


Progress = Callable[[BlockReport], None]


def run(
    config: Generate,
    jobs: Sequence[Job],
    output: Path,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Result]:
    """Generate every job in turn. An interrupt ends the run after a playable file is closed.

    Raises:
        ValueError, BackendUnavailable: whatever ``plan`` refuses.
        KeyboardInterrupt: an interrupt before the first block of the first video.
    """
    began = time.perf_counter()
    planned = plan(config, jobs, output, overwrite)
    pipeline = LongLivePipeline.from_pretrained(
        config.model,
        device=config.device,
        weights=config.weights,
        kv_cache=config.kv_cache,
        attention=config.attention,
        lane=config.lane,
        linear=config.linear,
        strict=config.strict,
        download=config.download,
    )
    results: list[Result] = []
    for job, video in zip(jobs, planned.videos, strict=True):
        try:
            result = _generate(pipeline, planned, job, video, progress, overwrite, began)
        except KeyboardInterrupt:
            if not results:
                raise
            break
        results.append(result)
        if result.interrupted:
            break
        began = time.perf_counter()
    return results


def _generate(
    pipeline: LongLivePipeline,
    planned: Plan,
    job: Job,
    video: PlannedVideo,
    progress: Progress | None,
    overwrite: bool,
    began: float,
) -> Result:
    """One video. ``began`` is when its user started to wait, loading included for the first."""
    stream = pipeline.stream(
        job.story,
        seconds=planned.config.seconds,
        seed=job.seed,
        steps=planned.steps,
        guidance=planned.guidance,
    )
    fps, size = planned.fps, (pipeline.settings.height, pipeline.settings.width)
    first, interrupted, timings = 0.0, False, []
    with stream, VideoWriter(video.path, fps=fps, size=size, overwrite=overwrite) as writer:
        try:
            for block in stream:
                video.path.parent.mkdir(parents=True, exist_ok=True)
                writer.write(block.frames)
                first = first or time.perf_counter() - began
                timings.append({"block": block.index, **as_plain(block.timing)})
                if progress is not None:
                    progress(_report(job, block.index, stream.plan, writer.frames, began))
        except KeyboardInterrupt:
            if not writer.frames:
                raise
            interrupted = True
    result = Result(
        path=destination(video.path),
        sidecar=sidecar_path(video.path),
        frames=writer.frames,
        fps=fps,
        seconds_to_first_frame=first,
        wall_seconds=time.perf_counter() - began,
        peak_memory_bytes=peak_memory(pipeline.placement.device),
        backends=(*in_short(pipeline.receipts()), f"decode lane: {pipeline.placement.lane}"),
        interrupted=interrupted,
    )
    record = video_record(result, planned, video, pipeline, timings)
    result.sidecar.write_text(json.dumps(record, indent=2) + "\n")
    return result


def _report(job: Job, index: int, shots: ShotPlan, frames: int, began: float) -> BlockReport:
    return BlockReport(
        job=job,
        index=index,
        blocks=shots.blocks,
        frames_done=frames,
        frames_total=shots.frames,
        seconds=time.perf_counter() - began,
    )
