"""The paths of videos, records and snapshots, and checks of them before anything is generated."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.file_names import part, require_distinct, require_room, temporary
from longlive_models.lora_source import LoRASource
from longlive_models.video.file_name import SUFFIXES, destination
from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
from longlive_recipes.generation.file_lock import require_free
from longlive_recipes.generation.inputs import Named, refuse_inputs, require_inputs


def check_files(
    config: Generate,
    jobs: Sequence[VideoJob],
    output: Path,
    overwrite: bool = False,
    snapshots: Snapshots | None = None,
    reads: Sequence[Named] = (),
) -> list[Path]:
    """Check all files of the jobs, and return the video file of each.

    Args:
        reads: inputs beside the model and the jobs' own files, such as prompts and a config.

    Raises:
        ValueError: an output exists, cannot be written, or is an input; or an input is missing.
    """
    paths = output_paths(jobs, output)
    for path in paths:
        room_for_video(path)
    read = [*reads, *inputs(config, jobs)]
    require_inputs(named for named in read if named[1] not in _continued(jobs))
    for job, path in zip(jobs, paths, strict=True):
        start = job.resume_point.start if job.resume_point else None
        own = start is not None and _is_same(destination(path), start.path)
        others = [named for named in read if not (own and _is_same(named[1], destination(path)))]
        refuse_inputs(_written(path), others, option="--output")
        if not own:
            check_output(path, overwrite)
        require_free(destination(path))
    if snapshots is not None:
        _check_snapshots(snapshots, jobs, read, overwrite)
    return paths


def inputs(config: Generate, jobs: Sequence[VideoJob]) -> list[Named]:
    """All inputs: the model's folder, if it is a local one, and the files of the jobs."""
    folder = EMBEDDED.get(config.model, Path(config.model).expanduser())
    model = [("the model", folder)] if folder.is_dir() else []
    lora = [("--lora", LoRASource.parse(one).path) for one in config.lora]
    return [*model, *lora, *(named for job in jobs for named in job.reads)]


def default_output(jobs: Sequence[VideoJob]) -> Path:
    """The default output; a video that is continued goes to its own file."""
    start = jobs[0].resume_point.start if jobs[0].resume_point else None
    if start is None:
        return Path("video.mp4" if len(jobs) == 1 or differ_in_seed_alone(jobs) else "videos")
    if len(jobs) == 1 and jobs[0].ending is None:
        own = start.path
        return own.with_name(f"{own.name}.png") if own.is_dir() else own
    return start.path.parent


def output_paths(jobs: Sequence[VideoJob], output: Path) -> list[Path]:
    """The file of each job: ``output`` itself for one job, if it is a video's name, else in it.

    Jobs that differ only in their seed are named by it: circle-seed7.mp4, circle-seed8.mp4.
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
    require_distinct(names, "videos")
    starts = [job.resume_point.start if job.resume_point else None for job in jobs]
    suffixes = [start.suffix if start else ".mp4" for start in starts]
    return [output / f"{name}{end}" for name, end in zip(names, suffixes, strict=True)]


def differ_in_seed_alone(jobs: Sequence[VideoJob]) -> bool:
    """Whether all jobs are the same video from different seeds."""
    start = jobs[0].name.rpartition("-seed")[0]
    return [job.name for job in jobs] == seed_names([job.seed for job in jobs], start)


def seed_names(seeds: Sequence[int], start: str) -> list[str]:
    """A name for each seed, as ``start-seed08``; all of the same width, so that they sort."""
    width = max(len(str(seed)) for seed in seeds)
    return [f"{start}-seed{seed:0{width}d}" for seed in seeds]


def sidecar_path(path: Path) -> Path:
    """The path of a video's record."""
    return path.with_suffix(".json")


def check_output(path: Path, overwrite: bool) -> None:
    """Raise ValueError if ``path`` or its sidecar exists, or cannot be created."""
    video = destination(path)
    room_for_video(path)
    for taken in (video, sidecar_path(path)):
        _check_replaced(taken, overwrite, "output", folder=taken == video and video != path)
    check_writable(path, "output")


def room_for_video(path: Path) -> None:
    """Raise ValueError if a name is too long for a video, its record or their temporary files."""
    record = sidecar_path(path).name
    require_room(path, [destination(path).name, record, part(record)])


def check_fork(path: Path, reads: Sequence[Named], overwrite: bool) -> None:
    """Raise ValueError if a second ending cannot be written to ``path``, or is an input."""
    refuse_inputs(_written(path), reads, option="file")
    check_output(path, overwrite)


def check_snapshot(
    path: Path, reads: Sequence[Named], overwrite: bool, allowed: Path | None = None
) -> None:
    """Raise ValueError if ``path`` cannot be written, or exists and is not ``allowed``."""
    if path.suffix.lower() in (*SUFFIXES, ".json"):
        raise ValueError(
            f"the snapshot {path} has the suffix of a video or a record, and it is neither: "
            f"name it, say, {path.stem}.snapshot."
        )
    require_room(path, [path.name, temporary(path.name)])
    own = allowed is not None and _is_same(path, allowed)
    others = [named for named in reads if not (own and _is_same(path, named[1]))]
    refuse_inputs([("the snapshot", path)], others, option="--snapshot")
    _check_replaced(path, overwrite or own, "snapshot", folder=False)
    check_writable(path, "snapshot")


def check_writable(path: Path, option: str) -> None:
    """Raise ValueError if a file cannot be created at ``path``, the value of ``option``."""
    parent = path.parent
    while not parent.exists():
        if parent.is_symlink():
            raise ValueError(
                f"{path} cannot be written: {parent} is a link to a folder that is not there. "
                f"Name another --{option}."
            )
        parent = parent.parent
    try:  # permissions do not tell of read-only and virtual file systems
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {parent} is no folder that takes new files "
            f"({error.strerror}). Name another --{option}."
        ) from error


def _check_replaced(path: Path, overwrite: bool, option: str, *, folder: bool) -> None:
    """Raise ValueError if something exists at ``path``, unless it may and can be replaced."""
    other = f"name another --{option}"
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} cannot be written: it is a link to nothing; {other}.")
    if not path.exists():
        return
    if path.is_dir() != folder:
        kind = "a file" if folder else "a folder"
        raise ValueError(f"{path} exists, and is {kind}: {other}.")
    if not overwrite:
        raise ValueError(f"{path} exists: pass --overwrite to replace it, or another --{option}.")
    if not os.access(path, os.W_OK):
        raise ValueError(f"{path} exists and may not be written to (see its permissions): {other}.")


def _check_snapshots(
    snapshots: Snapshots, jobs: Sequence[VideoJob], reads: Sequence[Named], overwrite: bool
) -> None:
    """Raise ValueError for a snapshot file that cannot be written, or holds something else."""
    path = snapshots.path
    if len(jobs) > 1:
        raise ValueError(
            f"--snapshot {path} holds the state of one video, got {len(jobs)} videos: "
            f"make them one by one."
        )
    resume_point = jobs[0].resume_point
    check_snapshot(path, reads, overwrite, allowed=resume_point.snapshot if resume_point else None)


def _written(path: Path) -> list[Named]:
    return [("the video", destination(path)), (f"the record of {path}", sidecar_path(path))]


def _continued(jobs: Sequence[VideoJob]) -> set[Path]:
    """The files of videos that are continued; ``VideoStart.require`` checks that they exist."""
    return {
        job.resume_point.start.path for job in jobs if job.resume_point and job.resume_point.start
    }


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are of the same file, which need not exist."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)
