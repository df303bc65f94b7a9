"""What is decided before a video is generated: how, of what, into which files; no weights."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longlive_core import __version__
from longlive_models.first_frame import load_image
from longlive_models.folder import fingerprint
from longlive_models.generator import check_seed
from longlive_models.hub import is_published, resolve
from longlive_models.pipeline import Placement, plan_video, read_spec
from longlive_models.precision import stored_precision
from longlive_models.published import find_files
from longlive_models.settings import GenerationSettings
from longlive_models.shots import ShotPlan, Storyboard
from longlive_models.steering import LiveSchedule
from longlive_models.stream_snapshot import Origin
from longlive_models.video import CRF, SUFFIXES, check_crf, check_rate, check_size, destination
from longlive_models.video_start import VideoStart
from longlive_recipes.live_commands import Command
from longlive_recipes.past import Past, Recorded


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How videos are generated. None and "auto" leave a choice to the model or the machine.

    ``longlive_models.placement.Placement`` says what device, precisions, backends and lane mean;
    bf16 weights on a CPU, say, are computed with in fp32. ``fps`` and ``crf`` (the quality of an
    mp4, from 0, the best, to 51) say how frames are stored, and change none: ``seconds`` are of
    the model's own rate, so a video of 5 s plays for 2.5 s at twice that rate.
    """

    model: str = "pocket"
    device: str = "auto"
    seconds: float | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    fps: float | None = None
    crf: int | None = None
    weights: str = "auto"
    kv_cache: str = "auto"
    attention: str = "auto"
    lane: str = "auto"
    linear: str = "auto"
    strict: bool = False
    download: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make.

    Attributes:
        name: of its file, where there are several.
        story: what it shows; of a video that goes on, the snapshot says that.
        seed: of its noise.
        image: what it starts with.
        events: of another video (``Stream.events``).
        like: the record of the video that this one must equal.
        past: what it goes on from.
        turn: how it is steered where it goes on.
    """

    name: str
    story: Storyboard
    seed: int
    image: Path | None = None
    events: tuple[dict[str, Any], ...] = ()
    like: Recorded | None = None
    past: Past | None = None
    turn: Command | None = None

    @property
    def recorded_crf(self) -> int | None:
        """The quality that a record or a snapshot brings along, which nobody chose for this run."""
        if self.like is not None:
            return self.like.config.get("crf")
        return None if self.past is None else self.past.stored.get("crf")


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """Where the state of a video is written: when it is interrupted, and each ``every`` blocks."""

    path: Path
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(
                f"a snapshot every {self.every} blocks cannot be: blocks are made whole. "
                f"Use 1 or more."
            )


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """A video before it is made; ``frames`` and ``seconds`` are None where it has no end.

    ``name`` is that of its file. ``seconds`` is how long it plays.

    ``start``: the frames that are there already, where it goes on from others.
    """

    name: str
    path: Path
    seed: int
    frames: int | None
    seconds: float | None
    shots: list[dict[str, Any]]
    image: Path | None = None
    start: VideoStart | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before a weight is read.

    ``fps`` is the rate of the files, ``model_fps`` that of the model, which seconds are counted at.
    """

    config: Generate
    size: str
    fps: float
    model_fps: float
    steps: int
    guidance: float
    negative_prompt: str
    crf: int | None
    device: str
    stored: str
    weights: str
    compute: str
    kv_cache: str
    lane: str
    attention: str
    linears: tuple[str, ...]
    videos: tuple[PlannedVideo, ...]


def plan(
    config: Generate,
    jobs: Sequence[Job],
    output: Path,
    overwrite: bool = False,
    snapshots: Snapshots | None = None,
) -> Plan:
    """Check everything that can be checked without reading weights.

    Raises:
        ValueError: an unknown model, one that is not whole, a device, precision or seed that does
            not exist, a length that makes no video, an output that exists or cannot be written,
            an image that is none, a past that is not here or not this model's.
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
    settings = spec.settings.override(
        steps=config.steps, guidance=config.guidance, negative_prompt=config.negative_prompt
    )
    fps = settings.fps if config.fps is None else config.fps
    attention = placement.receipt(spec.transformer.head_dim).backend
    videos = []
    for job, path in zip(jobs, output_paths(jobs, output), strict=True):
        _check_job(job, path, overwrite)
        check_size(path, (settings.height, settings.width))
        check_rate(path, fps)
        if path.suffix.lower() == ".mp4" or config.crf != job.recorded_crf:
            check_crf(path, config.crf)
        if job.like is not None:
            job.like.require(_model_sha256(folder), settings.to_dict(), config)
        if job.past is not None:
            job.past.require(_origin(folder, placement, settings))
            job.past.require_form(fps=config.fps, crf=config.crf)
            shots = job.past.summary.plan
        else:
            shots = plan_video(job.story, spec.timing, config.seconds, settings.shot_offset)
            LiveSchedule(shots, job.events)
        videos.append(_planned(job, path, shots, fps))
    if snapshots is not None:
        _check_snapshots(snapshots, jobs, overwrite)
    return Plan(
        config=config,
        size=f"{settings.width}x{settings.height}",
        fps=fps,
        model_fps=settings.fps,
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        crf=_crf(config, videos),
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
    """The file of each job: ``output`` itself for one job and a video's suffix, else inside it.

    Jobs that differ in their seed alone share a file's name: circle-seed7.mp4, circle-seed8.mp4.
    """
    if output.suffix and not output.is_dir():
        if len(jobs) == 1:
            return [output]
        if not differ_in_seed_alone(jobs):
            raise ValueError(
                f"{len(jobs)} videos cannot all go to {output}: name a folder with --output."
            )
        names = seed_names([job.seed for job in jobs], output.stem)
        return [output.with_stem(name) for name in names]
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError(f"two videos have one name among {', '.join(names)}: give each its own.")
    starts = [job.past.start if job.past else None for job in jobs]
    suffixes = [start.suffix if start else ".mp4" for start in starts]
    return [output / f"{name}{end}" for name, end in zip(names, suffixes, strict=True)]


def differ_in_seed_alone(jobs: Sequence[Job]) -> bool:
    """Whether the jobs are one video, made from several seeds: their names say so."""
    start = jobs[0].name.rpartition("-seed")[0]
    return [job.name for job in jobs] == seed_names([job.seed for job in jobs], start)


def seed_names(seeds: Sequence[int], start: str) -> list[str]:
    """A name for each seed: ``start-seed08``, ``start-seed09``, ...; equally wide, so they sort."""
    width = max(len(str(seed)) for seed in seeds)
    return [f"{start}-seed{seed:0{width}d}" for seed in seeds]


def settled(planned: Plan) -> Generate:
    """The config with nothing left to the machine: what makes the same video again."""
    model = planned.config.model
    return replace(
        planned.config,
        model=str(Path(model).resolve()) if Path(model).is_dir() else model,
        device=planned.device,
        steps=planned.steps,
        guidance=planned.guidance,
        negative_prompt=planned.negative_prompt,
        fps=planned.fps,
        crf=planned.crf,
        weights=planned.weights,
        kv_cache=planned.kv_cache,
        attention=planned.attention,
        lane=planned.lane,
    )


def check_output(path: Path, overwrite: bool) -> None:
    """Raise ValueError if ``path`` or its sidecar exists, or cannot be created."""
    for taken in (destination(path), sidecar_path(path)):
        if taken.exists() and not overwrite:
            raise ValueError(
                f"{taken} exists: pass --overwrite to replace it, or another --output."
            )
    check_writable(path, "output")


def check_writable(path: Path, option: str) -> None:
    """Raise ValueError if a file cannot be created at ``path``; ``option`` named it."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    try:  # permissions do not tell of read-only and virtual file systems
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {parent} is no folder that takes new files "
            f"({error.strerror}). Name another --{option}."
        ) from error


def sidecar_path(path: Path) -> Path:
    """Where the record of a video lies."""
    return path.with_suffix(".json")


def _check_job(job: Job, path: Path, overwrite: bool) -> None:
    """Raise ValueError for a seed, an image, a past or an output that cannot be."""
    check_seed(job.seed)
    if job.image is not None and job.past is None:
        load_image(job.image)
    start = None if job.past is None else job.past.start
    if start is None:
        check_output(path, overwrite)
        return
    if destination(path) != start.path:
        check_output(path, overwrite)
        if path.suffix.lower() != start.suffix:
            raise ValueError(
                f"{path} cannot begin with the frames of {start.path}: they are copied as they "
                f"are. Give it the same suffix, or pass --only-new."
            )
    start.require()


def _check_snapshots(snapshots: Snapshots, jobs: Sequence[Job], overwrite: bool) -> None:
    """Raise ValueError for a file that cannot hold the snapshots, or that something else is in."""
    path = snapshots.path
    if len(jobs) > 1:
        raise ValueError(
            f"--snapshot {path} holds the state of one video, got {len(jobs)} videos: "
            f"make them one by one."
        )
    check_snapshot(path, overwrite, allowed=jobs[0].past.snapshot if jobs[0].past else None)


def check_snapshot(path: Path, overwrite: bool, allowed: Path | None = None) -> None:
    """Raise ValueError if ``path`` cannot be written or is there, unless it is ``allowed``."""
    if path.suffix.lower() in (*SUFFIXES, ".json"):
        raise ValueError(
            f"the snapshot {path} has the suffix of a video or a record, and it is neither: "
            f"name it, say, {path.stem}.snapshot."
        )
    own = allowed is not None and path.resolve() == allowed.resolve()
    if path.is_dir() or (path.exists() and not overwrite and not own):
        raise ValueError(
            f"the snapshot {path} exists: pass --overwrite to replace it, or another name."
        )
    check_writable(path, "snapshot")


def _origin(folder: Path, placement: Placement, settings: GenerationSettings) -> Origin:
    return Origin(
        version=__version__,
        model=_model_sha256(folder),
        weights=placement.weights,
        compute=placement.compute,
        kv_cache=placement.kv_cache,
        settings=settings.to_dict(),
    )


def _model_sha256(folder: Path) -> str:
    """``LongLivePipeline.fingerprint`` of the model in a folder."""
    return fingerprint(find_files(folder).transformer if is_published(folder) else folder)


def _crf(config: Generate, videos: Sequence[PlannedVideo]) -> int | None:
    """The quality of the mp4 files; None where there are none."""
    if all(video.path.suffix.lower() != ".mp4" for video in videos):
        return None
    return CRF if config.crf is None else config.crf


def _planned(job: Job, path: Path, shots: ShotPlan, fps: float) -> PlannedVideo:
    return PlannedVideo(
        name=path.stem,
        path=path,
        seed=job.seed,
        frames=None if shots.endless else shots.frames,
        seconds=None if shots.endless else shots.frames / fps,
        shots=shots.describe(),
        image=job.image,
        start=job.past.start if job.past else None,
    )
