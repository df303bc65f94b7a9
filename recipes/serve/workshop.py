"""From a wish, a snapshot or a record to the session that makes a video."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longlive_models.prompts.report import lines_about
from longlive_models.prompts.storyboard import Shot
from longlive_models.stream_snapshot import SnapshotSummary
from longlive_models.video.append import VideoStart
from longlive_recipes.configs.generate import Generate, VideoJob
from longlive_recipes.generation import jobs
from longlive_recipes.generation.plan import Plan, plan, rounding_lines
from longlive_recipes.generation.session import VideoSession, open_video_session
from longlive_recipes.serve.errors import Refused
from longlive_recipes.serve.images import Images
from longlive_recipes.serve.offers import Offer, Offers
from longlive_recipes.serve.saved import IMAGE, VIDEO, Wish
from longlive_recipes.serve.shelf import with_events
from longlive_recipes.serve.video import ServedVideo

Events = Sequence[dict[str, Any]]


class Making:
    """A video that is planned, and can be opened on the scheduler's thread."""

    def __init__(self, offer: Offer, planned: Plan, job: VideoJob) -> None:
        self.offer, self.planned, self.job = offer, planned, job

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of it: what of its prompts is left out, and what is odd."""
        [video] = self.planned.videos
        lacking = lines_about(video.not_shown, self.offer.pipeline.text)
        return (*lacking, *self.planned.notes, *rounding_lines(self.planned, [self.job]))

    def open(self) -> VideoSession:
        """Open the session at its first block."""
        [video] = self.planned.videos
        return open_video_session(
            self.offer.pipeline,
            self.planned,
            self.job,
            video,
            overwrite=True,
            began=time.perf_counter(),
        )


class Workshop:
    """Plans the videos of a server; what it does takes a moment, and runs on any thread.

    Args:
        offers: the models.
        images: the pictures that clients sent.
        seconds: the longest video.
    """

    def __init__(self, offers: Offers, images: Images, seconds: float) -> None:
        self._offers, self._images, self._seconds = offers, images, seconds

    def planned(self, video: ServedVideo, image: str | None) -> Making:
        """A new video, which may begin with a picture."""
        if image is not None:
            shutil.copyfile(self._images.path(image), video.folder / IMAGE)
        return from_wish(self._offers, video.saved.wish, video.folder, self._seconds)

    def recorded(self, video: ServedVideo, record: dict[str, Any], image: str | None) -> Making:
        """The video of a record, again."""
        path = video.folder / "replay.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        picture = None if image is None else self._images.path(image)
        try:
            made, wish = from_record(self._offers, path, video.folder, picture)
        except ValueError as error:
            if isinstance(error, Refused):
                raise
            raise Refused(str(error).replace(str(path), "the record")) from error
        video.saved = replace(video.saved, wish=wish, events=made.job.events)
        return made

    def forked(self, video: ServedVideo, parent: ServedVideo, block: int, events: Events) -> Making:
        """A second ending of ``parent``, from the nearest snapshot before ``block``."""
        if (parent.folder / IMAGE).is_file():
            shutil.copyfile(parent.folder / IMAGE, video.folder / IMAGE)
        kept = parent.shelf.before(block)
        if kept is None:
            wish = parent.saved.wish
            return from_wish(self._offers, wish, video.folder, self._seconds, events)
        own = video.shelf.put(
            kept.block, kept.begun, lambda path: with_events(kept.path, path, events)
        )
        assert own is not None  # it fits where it came from
        return from_snapshot(self._offers, own.path, video.folder, parent.path)

    def resumed(self, video: ServedVideo) -> Making:
        """What comes after the newest snapshot that can be read, or the whole video again."""
        saved = video.saved
        for kept in reversed(video.shelf.kept):
            try:
                known = SnapshotSummary.read(kept.path).events
            except ValueError:
                video.shelf.forget(kept)  # damage: an earlier one is as good, only slower
                continue
            if list(known) != list(saved.events):
                with_events(kept.path, kept.path, saved.events)
            return from_snapshot(self._offers, kept.path, video.folder, video.path)
        video.path.unlink(missing_ok=True)
        return from_wish(self._offers, saved.wish, video.folder, self._seconds, saved.events)


def from_wish(
    offers: Offers, wish: Wish, folder: Path, seconds: float, events: Events = ()
) -> Making:
    """Plan a video from its first block, with events that are known already.

    Raises:
        ValueError: what the plan of a generation refuses.
    """
    offer = offers.named(wish.weights)
    config = replace(
        offer.base,
        seconds=_length(wish, seconds),
        sampler=wish.sampler,
        steps=wish.steps,
        guidance=wish.guidance,
        negative_prompt=wish.negative_prompt,
        crf=wish.crf,
    )
    image = folder / IMAGE
    job = VideoJob(
        name="video",
        story=wish.story,
        seed=wish.seed,
        image=image if image.is_file() else None,
        events=tuple(events),
    )
    return Making(offer, plan(config, [job], folder / VIDEO, True), job)


def from_snapshot(offers: Offers, snapshot: Path, folder: Path, source: Path) -> Making:
    """Plan what comes after a snapshot of the video ``source``, which may be another one's.

    Raises:
        ValueError: the snapshot is none, or of another model, precision or version.
    """
    config, [job] = jobs.resume(snapshot)
    offer, config = offers.for_config(config)
    point = job.resume_point
    assert point is not None
    start = None
    if point.start is not None:
        # at once rather than at the first block: what is there can be watched until then
        begun = VideoStart(path=source, frames=point.start.frames)
        begun.lay(folder / VIDEO, overwrite=True)
        start = VideoStart(path=folder / VIDEO, frames=begun.frames)
    image = folder / IMAGE
    job = replace(
        job,
        name="video",
        image=image if image.is_file() else None,
        resume_point=replace(point, start=start),
    )
    return Making(offer, plan(config, [job], folder / VIDEO, True), job)


def from_record(
    offers: Offers, record: Path, folder: Path, image: Path | None
) -> tuple[Making, Wish]:
    """Plan the video of a record again; ``image`` is the picture that it began with.

    Raises:
        ValueError: the record is none, or of another model, setting or precision.
        Refused: it began with a picture, and ``image`` is None.
    """
    config, job = jobs.replay(record)
    if job.clip is not None:
        raise Refused(
            "the video of this record goes on from a clip, and clips are not sent here: make it "
            "again with longlive generate --replay.",
            409,
        )
    if job.image is not None and image is None:
        raise Refused(
            "the video of this record began with a picture: send that picture first, and name it "
            "as image.",
            409,
        )
    offer, config = offers.for_config(config)
    if image is not None:
        shutil.copyfile(image, folder / IMAGE)
    job = replace(job, name="video", image=None if image is None else folder / IMAGE)
    making = Making(offer, plan(config, [job], folder / VIDEO, True), job)
    return making, _wish_of(config, job)


def _wish_of(config: Generate, job: VideoJob) -> Wish:
    return Wish(
        shots=tuple(Shot.of(shot) for shot in job.story.shots),
        seed=job.seed,
        seconds=config.seconds,
        sampler=config.sampler,
        steps=config.steps,
        guidance=config.guidance,
        negative_prompt=config.negative_prompt,
        crf=config.crf,
        weights=config.weights,
    )


def _length(wish: Wish, most: float) -> float | None:
    """The seconds of a video; None where its shots say it."""
    if wish.seconds is None:
        if any(shot.seconds is None and shot.blocks is None for shot in wish.shots[:-1]):
            raise Refused(
                "nothing says how long each shot is shown: give all but the last one seconds, or "
                "the video."
            )
        last = wish.shots[-1]
        return most if last.seconds is None and last.blocks is None else None
    if wish.seconds > most:
        raise Refused(f"a video lasts {most:g} s at most here, got {wish.seconds:g}.")
    return wish.seconds
