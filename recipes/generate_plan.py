"""What is decided before a video is generated: how, of what, into which files; no weights."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_models.generator import check_seed
from longlive_models.hub import resolve
from longlive_models.pipeline import Placement, plan_video, read_spec
from longlive_models.precision import stored_precision
from longlive_models.shots import ShotPlan, Storyboard
from longlive_models.video import check_size, destination


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


def _planned(job: Job, path: Path, shots: ShotPlan) -> PlannedVideo:
    return PlannedVideo(
        name=job.name,
        path=path,
        seed=job.seed,
        frames=shots.frames,
        seconds=shots.frames / shots.timing.fps,
        shots=shots.describe(),
    )
