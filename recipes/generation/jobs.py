"""Jobs of videos that begin with a file of an earlier run: a snapshot or a record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from longlive_models.prompts.storyboard import Storyboard
from longlive_models.settings import completed
from longlive_recipes.configs.generate import Generate, VideoJob
from longlive_recipes.generation.commands import Command
from longlive_recipes.generation.starting_points import (
    Recorded,
    read_config,
    read_notes,
    read_record,
    read_resume_point,
)
from longlive_recipes.run_record import as_plain


def resume(
    snapshot: Path, endings: Sequence[Command] = (), *, only_new: bool = False
) -> tuple[Generate, list[VideoJob]]:
    """The config of a snapshot, and the jobs that continue it: one, or one for each ending.

    Raises:
        ValueError: the file is no snapshot, or names no video although ``only_new`` is False.
    """
    resume_point = read_resume_point(snapshot, only_new=only_new)
    summary = resume_point.summary
    notes = read_notes(summary, snapshot)
    settings = completed(summary.origin.settings)
    job = VideoJob(
        name=resume_point.start.path.stem if resume_point.start else snapshot.stem,
        story=Storyboard.of(list(summary.plan.prompts)),
        seed=summary.seed,
        image=notes.image,
        image_sha256=notes.image_sha256,
        clip=notes.clip,
        resume_point=resume_point,
    )
    if notes.config is not None:
        config = read_config(completed(notes.config), Generate, snapshot)
    else:
        config = Generate(
            quality=summary.origin.quality,
            weights=summary.origin.weights,
            kv_cache=summary.origin.kv_cache,
            sampler=settings["sampler"],
            steps=settings["steps"],
            guidance=settings["guidance"],
        )
    if not endings:
        return config, [job]
    return config, [
        replace(job, name=f"{job.name}-fork{number}", ending=ending)
        for number, ending in enumerate(endings, start=1)
    ]


def replay(path: Path) -> tuple[Generate, VideoJob]:
    """The config and the job that make the video of a record again.

    Raises:
        ValueError: the file is no record, or one of another version.
    """
    record = read_record(path)
    again = record.replay
    config = read_config(completed(again.config), Generate, path)
    try:
        story = Storyboard(shots=again.shots)
    except ValueError as error:
        raise ValueError(f"{path}, replay.shots: {error}") from error
    job = VideoJob(
        name=path.stem,
        story=story,
        seed=again.seed,
        image=again.image,
        image_sha256=again.image_sha256,
        clip=again.clip,
        events=tuple(event.to_dict() for event in again.events),
        like=Recorded(
            path=path,
            model_sha256=record.model_sha256,
            settings=record.settings,
            config=as_plain(config),
        ),
    )
    return config, job
