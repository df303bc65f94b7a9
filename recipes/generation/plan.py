"""Planning of a generation: everything that is decided before weights are read."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from longlive_core import __version__
from longlive_models.block_steps import BlockSteps
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec, read_words
from longlive_models.checkpoints.weight_hash import FileHash
from longlive_models.clip import Clip
from longlive_models.first_frame import load_image
from longlive_models.generator import check_seed
from longlive_models.loading import check_beside, hash_of
from longlive_models.lora_source import absolute
from longlive_models.precision import stored_precision
from longlive_models.prompts.report import NotShown, not_shown, warn_of
from longlive_models.prompts.steering import LiveSchedule
from longlive_models.prompts.storyboard import Past, ShotPlan, plan_video
from longlive_models.runtime import Runtime
from longlive_models.sampling_notes import SamplingWarning, sampling_notes
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.stream_snapshot import Origin
from longlive_models.video.append import VideoStart
from longlive_models.video.file_name import destination
from longlive_models.video.files import CRF, check_crf, check_rate, check_size
from longlive_recipes.configs.generate import Generate, GivenClip, Snapshots, VideoJob
from longlive_recipes.generation.outputs import check_files
from longlive_recipes.generation.within_memory import within_memory
from longlive_recipes.run_record import NOT_IN_RECORDS


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """The plan of one video.

    ``name`` is the name of its file. ``frames`` is its length and ``seconds`` how long it plays;
    both are None for a video without an end. ``not_shown`` has the parts of its prompts that will
    not be in it, as far as that is known before the model is loaded. ``image_sha256`` is the hash
    of its first picture's file when the video began, and ``clip`` the clip that it goes on from,
    whose blocks are not among ``frames``. ``start`` has the existing frames of a video
    that is continued.
    """

    name: str
    path: Path
    seed: int
    frames: int | None
    seconds: float | None
    shots: list[dict[str, Any]]
    not_shown: NotShown = NotShown()
    image: Path | None = None
    image_sha256: str | None = None
    clip: GivenClip | None = None
    start: VideoStart | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is decided before weights are read.

    ``fps`` is the rate of the files, ``model_fps`` that of the model, at which seconds are counted.
    ``notes`` say what is unlikely to be meant, ``picked`` what was picked for ``max_memory``.
    ``runtime`` has the devices and precisions, and
    ``files`` hashes the model's weights once.
    """

    config: Generate
    size: str
    fps: float
    model_fps: float
    sampler: str
    steps: BlockSteps
    guidance: float
    negative_prompt: str
    crf: int | None
    device: str
    quality: str
    stored: str
    weights: str
    compute: str
    kv_cache: str
    lane: str
    vae: str
    lora: tuple[str, ...]
    attention: str
    attention_receipt: str = field(metadata=NOT_IN_RECORDS, compare=False)
    linears: tuple[str, ...]
    notes: tuple[str, ...]
    videos: tuple[PlannedVideo, ...]
    picked: tuple[str, ...] = field(metadata=NOT_IN_RECORDS, compare=False)
    runtime: Runtime = field(metadata=NOT_IN_RECORDS, compare=False)
    files: FileHash = field(metadata=NOT_IN_RECORDS, compare=False)


def plan(
    config: Generate,
    jobs: Sequence[VideoJob],
    output: Path,
    overwrite: bool = False,
    snapshots: Snapshots | None = None,
    ranks: int = 1,
) -> Plan:
    """Check everything that can be checked without reading weights.

    ``ranks`` is the largest number of ranks that share a video and its memory.

    Raises:
        ValueError: an unknown model, one that is not whole, a device, precision or seed that does
            not exist, a length that makes no video, an output that exists or cannot be written,
            a damaged image, a snapshot that is not there or of another model.
        BackendUnavailable: a backend that was named and cannot run here, or emulation under
            ``strict``.
    """
    if not jobs:
        raise ValueError("there is nothing to generate: no prompt was given.")
    paths = check_files(config, jobs, output, overwrite, snapshots)
    config, picked = within_memory(config, ranks=ranks)
    runtime = Runtime.choose(config)
    folder = resolve(config.model, download=config.download)
    spec = read_spec(folder, download=config.download)
    check_beside(folder, spec, runtime)
    weights = hash_of(folder, runtime)
    settings = _settings(spec, config)
    _require_room(spec, runtime, samples=settings.branches, ranks=ranks)
    fps = settings.fps if config.fps is None else config.fps
    attention = runtime.receipt(spec.transformer.head_dim)
    videos, words = [], read_words(folder)
    for job, path in zip(jobs, paths, strict=True):
        _check_job(job, path)
        check_size(path, (settings.height, settings.width))
        check_rate(path, fps)
        if path.suffix.lower() == ".mp4" or config.crf != job.recorded_crf:
            check_crf(path, config.crf)
        if job.like is not None:
            job.like.require(weights.sha256, settings.to_dict(), config)
        if job.resume_point is not None:
            job.resume_point.require(_origin(weights, runtime, settings), config)
            job.resume_point.require_form(fps=config.fps, crf=config.crf)
            shots = job.resume_point.summary.plan
        else:
            past = _past(job, spec)
            shots = plan_video(job.story, spec.timing, config.seconds, settings.shot_offset, past)
        schedule = LiveSchedule(shots, _events(job), begun=shots.past)
        away = settings.negative_prompt if settings.branches > 1 else ""
        lacking = not_shown(words, schedule.prompts(), shots.left_out, negative=away)
        videos.append(_planned(job, path, shots, fps, lacking))
    return Plan(
        config=config,
        size=f"{settings.width}x{settings.height}",
        fps=fps,
        model_fps=settings.fps,
        sampler=settings.sampler,
        steps=settings.steps,
        guidance=settings.guidance,
        negative_prompt=settings.negative_prompt,
        crf=_crf(config, videos),
        device=str(runtime.device),
        quality=runtime.quality,
        stored=stored_precision(folder),
        weights=runtime.weights,
        compute=runtime.compute,
        kv_cache=runtime.kv_cache,
        lane=runtime.lane,
        vae=runtime.vae,
        lora=runtime.lora,
        attention=attention.backend,
        attention_receipt=str(attention),
        linears=tuple(map(str, runtime.linear_receipts(spec.transformer.dim))),
        notes=sampling_notes(spec.settings, settings, adapted=bool(runtime.lora)),
        videos=tuple(videos),
        picked=picked,
        runtime=runtime,
        files=weights,
    )


def warn_of_plan(planned: Plan, jobs: Sequence[VideoJob]) -> None:
    """Warn of parts of prompts that are not shown, of odd samplers, and of shots' other lengths."""
    lacking = dict.fromkeys(video.not_shown for video in planned.videos)
    if any(found != NotShown() for found in lacking):
        words = read_words(resolve(planned.config.model, download=planned.config.download))
        for found in lacking:
            warn_of(found, words)
    for note in planned.notes:
        warnings.warn(note, SamplingWarning, stacklevel=2)
    for line in rounding_lines(planned, jobs):
        warnings.warn(line, stacklevel=2)


def rounding_lines(planned: Plan, jobs: Sequence[VideoJob]) -> list[str]:
    """Lines on shots that become longer or shorter, as they are made of whole blocks."""
    lines = []
    for job, video in zip(jobs, planned.videos, strict=False):
        if job.resume_point is not None:
            continue
        pairs = enumerate(zip(job.story.shots, video.shots, strict=False), start=1)
        changed = [
            f"shot {number} lasts {made['seconds']:.4g} s in place of {shot.seconds:g}"
            for number, (shot, made) in pairs
            if shot.seconds is not None
            and made["seconds"] is not None
            and abs(made["seconds"] - shot.seconds) > 1 / planned.model_fps
        ]
        if changed:
            lines.append(f"{video.name}: a shot is made of whole blocks, so {', '.join(changed)}.")
    return lines


def settled(planned: Plan) -> Generate:
    """The config with every choice made, so that it makes the same video again elsewhere."""
    model = planned.config.model
    return replace(
        planned.config,
        model=str(Path(model).resolve()) if Path(model).is_dir() else model,
        device=planned.device,
        sampler=planned.sampler,
        steps=planned.steps,
        guidance=planned.guidance,
        negative_prompt=planned.negative_prompt,
        fps=planned.fps,
        crf=planned.crf,
        weights=planned.weights,
        kv_cache=planned.kv_cache,
        attention=planned.attention,
        lane=planned.lane,
        lora=tuple(absolute(one) for one in planned.config.lora),
    )


def _require_room(spec: ModelSpec, runtime: Runtime, *, samples: int, ranks: int) -> None:
    """Raise ValueError if the cache or a block's frames need more than a device's whole memory."""
    windows = runtime.reads_windows(spec.transformer.head_dim)
    spec.require_room(
        runtime.codec(), runtime.device, samples=samples, ranks=ranks, windows=windows
    )


def _settings(spec: ModelSpec, config: Generate) -> GenerationSettings:
    """The model's settings with the values of the config."""
    return spec.settings.override(
        sampler=config.sampler,
        steps=config.steps,
        guidance=config.guidance,
        negative_prompt=config.negative_prompt,
    )


def _check_job(job: VideoJob, path: Path) -> None:
    """Raise ValueError for an invalid seed or image, or for frames that cannot be continued."""
    check_seed(job.seed)
    if job.image is not None and job.resume_point is None:
        load_image(job.image)
        if job.like is not None:
            job.like.require_file("picture", job.image, job.image_sha256, fingerprint(job.image))
    if job.clip is not None and job.like is not None:
        clip = job.clip
        job.like.require_file("clip", clip.path, clip.sha256, fingerprint(clip.path))
    start = None if job.resume_point is None else job.resume_point.start
    if start is None:
        return
    if destination(path) != start.path and path.suffix.lower() != start.suffix:
        raise ValueError(
            f"{path} cannot begin with the frames of {start.path}: they are copied as they "
            f"are. Give it the same suffix, or pass --only-new."
        )
    start.require()


def _past(job: VideoJob, spec: ModelSpec) -> Past | None:
    """The blocks of the clip that a video goes on from. Raises ValueError if it is no such clip."""
    if job.clip is None:
        return None
    if job.image is not None:
        raise ValueError(
            f"{job.name} starts from the picture {job.image} and goes on from the clip "
            f"{job.clip.path}: a video begins in one way. Leave one out."
        )
    clip = Clip.open(job.clip.path, spec.timing.fps)
    blocks = clip.blocks(spec.timing, spec.settings.policy)
    return Past(blocks=blocks, cut=job.clip.cut, prompt=job.clip.prompt)


def _clip(job: VideoJob) -> GivenClip | None:
    """The clip with the hash of its file; that of a snapshot is in the snapshot."""
    if job.clip is None or job.resume_point is not None:
        return job.clip
    return replace(job.clip, sha256=fingerprint(job.clip.path))


def _image_sha256(job: VideoJob) -> str | None:
    """The hash of the video's first picture; that of a snapshot is in the snapshot."""
    if job.image is None or job.resume_point is not None:
        return job.image_sha256
    return fingerprint(job.image)


def _origin(weights: FileHash, runtime: Runtime, settings: GenerationSettings) -> Origin:
    return Origin(
        version=__version__,
        model=weights.sha256,
        weights=runtime.weights,
        compute=runtime.compute,
        kv_cache=runtime.kv_cache,
        settings=settings.to_dict(),
        quality=runtime.quality,
    )


def _crf(config: Generate, videos: Sequence[PlannedVideo]) -> int | None:
    """The quality of the mp4 files; None if there are none."""
    if all(video.path.suffix.lower() != ".mp4" for video in videos):
        return None
    return CRF if config.crf is None else config.crf


def _events(job: VideoJob) -> tuple[dict[str, Any], ...]:
    return job.events if job.resume_point is None else job.resume_point.summary.events


def _planned(
    job: VideoJob, path: Path, shots: ShotPlan, fps: float, lacking: NotShown
) -> PlannedVideo:
    return PlannedVideo(
        name=path.stem,
        path=path,
        seed=job.seed,
        frames=None if shots.endless else shots.new_frames,
        seconds=None if shots.endless else shots.new_frames / fps,
        shots=shots.describe(),
        not_shown=lacking,
        image=job.image,
        image_sha256=_image_sha256(job),
        clip=_clip(job),
        start=job.resume_point.start if job.resume_point else None,
    )
