"""Streaming generation: prompts in, video files out, block by block.

Every block is in the file when it is reported. A run that is interrupted or killed leaves a
playable video of the blocks so far.

Command:  longlive generate "a red circle moves right on a navy background" -o circle.mp4
"""

import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longlive_core import __version__
from longlive_models.generator import check_seed
from longlive_models.hub import resolve
from longlive_models.pipeline import LongLivePipeline, Placement, plan_video, read_spec
from longlive_models.precision import in_short, stored_precision
from longlive_models.shots import ShotPlan, Storyboard
from longlive_models.video import VideoWriter, check_size, destination
from longlive_recipes.run_record import as_plain, code_version, hardware


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How videos are generated. None and "auto" leave a choice to the model or the machine.

    ``longlive_models.placement.Placement`` says what device, precisions, backends and lane mean;
    bf16 weights on a CPU, say, are computed with in fp32.
    """

    model: str = "pocket"
    device: str = "auto"
    seconds: float | None = None
    steps: int | None = None
    guidance: float | None = None
    weights: str = "auto"
    kv_cache: str = "auto"
    attention: str = "auto"
    lane: str = "auto"
    linear: str = "auto"
    strict: bool = False
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make; ``name`` names its file where there are several."""

    name: str
    story: Storyboard
    seed: int


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """A video before it is made."""

    name: str
    path: Path
    seed: int
    frames: int
    seconds: float
    shots: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before a weight is read."""

    config: Generate
    size: str
    fps: float
    steps: int
    guidance: float
    device: str
    stored: str
    weights: str
    compute: str
    kv_cache: str
    lane: str
    attention: str
    linears: tuple[str, ...]
    videos: tuple[PlannedVideo, ...]


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """A block is in the file."""

    job: Job
    index: int
    blocks: int
    frames_done: int
    frames_total: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """A video is in its file; ``interrupted`` if it ends early."""

    path: Path
    sidecar: Path
    frames: int
    fps: float
    seconds_to_first_frame: float
    wall_seconds: float
    peak_memory_bytes: int
    backends: tuple[str, ...]
    interrupted: bool


Progress = Callable[[BlockReport], None]


def plan(config: Generate, jobs: Sequence[Job], output: Path, overwrite: bool = False) -> Plan:
    """Check everything that can be checked without reading weights.

    Raises:
        ValueError: an unknown model, one that is not whole, a device, precision or seed that does
            not exist, a length that makes no video, an output that exists or cannot be written.
        BackendUnavailable: a backend that was named and cannot run here, or emulation under
            ``strict``.
    """
    if not jobs:
        raise ValueError("there is nothing to generate: no prompt was given.")
    placement = Placement.choose(
        config.device,
        config.weights,
        config.kv_cache,
        config.attention,
        config.lane,
        linear=config.linear,
        strict=config.strict,
    )
    folder = resolve(config.model, download=config.download)
    spec = read_spec(folder, download=config.download)
    settings = spec.settings.override(steps=config.steps, guidance=config.guidance)
    attention = placement.receipt(spec.transformer.head_dim).backend
    videos = []
    for job, path in zip(jobs, output_paths(jobs, output), strict=True):
        check_seed(job.seed)
        check_output(path, overwrite)
        check_size(path, (settings.height, settings.width))
        shots = plan_video(job.story, spec.timing, config.seconds, settings.shot_offset)
        videos.append(_planned(job, path, shots))
    return Plan(
        config=config,
        size=f"{settings.width}x{settings.height}",
        fps=settings.fps,
        steps=settings.steps,
        guidance=settings.guidance,
        device=str(placement.device),
        stored=stored_precision(folder),
        weights=placement.weights,
        compute=placement.compute,
        kv_cache=placement.kv_cache,
        lane=placement.lane,
        attention=attention,
        linears=tuple(map(str, placement.linear_receipts(spec.transformer.dim))),
        videos=tuple(videos),
    )


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
    record = _record(result, planned, video, pipeline, timings)
    result.sidecar.write_text(json.dumps(record, indent=2) + "\n")
    return result


def output_paths(jobs: Sequence[Job], output: Path) -> list[Path]:
    """The file of each job: ``output`` itself for one job and a video's suffix, else inside it."""
    if output.suffix and not output.is_dir():
        if len(jobs) > 1:
            raise ValueError(
                f"{len(jobs)} videos cannot all go to {output}: name a folder with --output."
            )
        return [output]
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"two videos have one name among {', '.join(names)}: give each its own.")
    return [output / f"{name}.mp4" for name in names]


def check_output(path: Path, overwrite: bool) -> None:
    """Raise ValueError if ``path`` or its sidecar exists, or cannot be created."""
    for taken in (destination(path), sidecar_path(path)):
        if taken.exists() and not overwrite:
            raise ValueError(
                f"{taken} exists: pass --overwrite to replace it, or another --output."
            )
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    try:  # permissions do not tell of read-only and virtual file systems
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {parent} is no folder that takes new files "
            f"({error.strerror}). Name another --output."
        ) from error


def sidecar_path(path: Path) -> Path:
    """Where the record of a video lies."""
    return path.with_suffix(".json")


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _planned(job: Job, path: Path, shots: ShotPlan) -> PlannedVideo:
    return PlannedVideo(
        name=job.name,
        path=path,
        seed=job.seed,
        frames=shots.frames,
        seconds=shots.frames / shots.timing.fps,
        shots=shots.describe(),
    )


def _report(job: Job, index: int, shots: ShotPlan, frames: int, began: float) -> BlockReport:
    return BlockReport(
        job=job,
        index=index,
        blocks=shots.blocks,
        frames_done=frames,
        frames_total=shots.frames,
        seconds=time.perf_counter() - began,
    )


def _record(
    result: Result,
    planned: Plan,
    video: PlannedVideo,
    pipeline: LongLivePipeline,
    timings: list[dict[str, Any]],
) -> dict[str, Any]:
    """The sidecar: enough to make the video again, and to know what it took."""
    settings = pipeline.settings.override(steps=planned.steps, guidance=planned.guidance)
    return {
        "video": as_plain(video),
        "plan": {k: v for k, v in as_plain(planned).items() if k != "videos"},
        "settings": settings.to_dict(),
        "result": as_plain(result),
        "model_sha256": pipeline.fingerprint,
        "versions": {
            "longlive": __version__,
            "code": code_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "hardware": hardware(pipeline.placement.device),
        "blocks": timings,
    }
