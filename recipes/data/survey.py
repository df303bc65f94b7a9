"""What a list of clips amounts to before any is encoded: files that are whole, clips, seconds."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longlive_models.video.facts import VideoFacts
from longlive_models.video.timed import sampled, video_facts
from longlive_recipes.data.cutting import frames_missing, shots_of_clips
from longlive_recipes.data.layouts import Found, Skipped, Source, SourceShot
from longlive_recipes.data.target import Target

LARGEST_SCALE = 8
"""A picture that would have to be made larger than so many times shows nothing."""

Looked = Callable[[int, int, str], None]
"""Told how many of how many sources were looked at, and the name of the next."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A source that can be used.

    Attributes:
        source: its shots that can be used.
        seconds: of them.
        clips: of each clip, the shot of each of its blocks.
        missing: of each shot, the frames that it lacks for one more block; 0 where none is begun.
    """

    source: Source
    seconds: float
    clips: tuple[tuple[int, ...], ...]
    missing: tuple[int, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks of all clips."""
        return sum(len(clip) for clip in self.clips)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All that can be used of what was found, and all that cannot, with the reasons."""

    planned: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]

    @property
    def clips_by_blocks(self) -> dict[int, int]:
        """How many clips there are of each length."""
        counts = Counter(len(clip) for one in self.planned for clip in one.clips)
        return dict(sorted(counts.items()))

    @property
    def blocks(self) -> int:
        """Blocks of all clips."""
        return sum(one.blocks for one in self.planned)


def survey(found: Found, target: Target, looked: Looked = lambda done, total, name: None) -> Survey:
    """Look at every video: all of each is read, one frame decoded.

    Raises:
        ValueError: none of them can be used.
    """
    planned: list[Planned] = []
    skipped = list(found.skipped)
    known: dict[Path, VideoFacts | str] = {}
    for place, source in enumerate(found.sources):
        looked(place, len(found.sources), source.name)
        shots: list[SourceShot] = []
        seconds: list[float] = []
        for shot in source.shots:
            lasts = _lasts(shot, target, known)
            if isinstance(lasts, str):
                name = (
                    source.name if len(source.shots) == 1 else f"{source.name} ({shot.path.name})"
                )
                skipped.append(Skipped(name=name, reason=lasts))
            else:
                shots.append(shot)
                seconds.append(lasts)
        if not shots:
            continue
        frames = [sampled(lasts, target.timing.fps) for lasts in seconds]
        clips = shots_of_clips(frames, target.timing, target.blocks)
        if clips:
            planned.append(
                Planned(
                    source=replace(source, shots=tuple(shots)),
                    seconds=sum(seconds),
                    clips=clips,
                    missing=frames_missing(frames, target.timing, target.blocks),
                )
            )
        else:
            reason = _too_short(max(seconds), max(frames), target)
            skipped.append(Skipped(name=source.name, reason=reason))
    return _usable(found.place, planned, skipped)


def without(seen: Survey, damaged: Mapping[str, str], place: Path) -> Survey:
    """What is left of a survey without sources that turned out to be damaged: why, by their names.

    Raises:
        ValueError: nothing is.
    """
    planned = [one for one in seen.planned if one.source.name not in damaged]
    more = [Skipped(name=name, reason=reason) for name, reason in damaged.items()]
    return _usable(place, planned, [*seen.skipped, *more])


def _usable(place: Path, planned: Sequence[Planned], skipped: Sequence[Skipped]) -> Survey:
    """A survey of ``place``. Raises ValueError where it has nothing that can be used."""
    if not planned:
        first = skipped[0] if skipped else Skipped(name="nothing", reason="was found")
        raise ValueError(
            f"none of the {len(skipped)} clips in {place} can be used; the first, "
            f"{first.name}: {first.reason.rstrip('.')}. Mend them, or name another folder."
        )
    return Survey(planned=tuple(planned), skipped=tuple(skipped))


def _lasts(shot: SourceShot, target: Target, known: dict[Path, VideoFacts | str]) -> float | str:
    """Seconds of a shot, or why it cannot be used."""
    if shot.path not in known:
        try:
            known[shot.path] = video_facts(shot.path)
        except ValueError as error:
            known[shot.path] = str(error)
    facts = known[shot.path]
    if isinstance(facts, str):
        return facts
    if facts.missing is not None:
        return f"it is cut: {facts.frames} frames are whole, and {facts.missing}"
    if target.height > LARGEST_SCALE * facts.height or target.width > LARGEST_SCALE * facts.width:
        return (
            f"its frames are {facts.width}x{facts.height}, and would be made more than "
            f"{LARGEST_SCALE} times as large"
        )
    if shot.start >= facts.seconds:
        return f"a shot begins at {shot.start:g} s, and the video lasts {facts.seconds:.3g} s"
    end = facts.seconds if shot.end is None else min(shot.end, facts.seconds)
    return end - shot.start


def _too_short(seconds: float, frames: int, target: Target) -> str:
    return (
        f"it lasts {seconds:.3g} s, and a clip's first block takes {target.timing.seconds(1):.3g} "
        f"s: {target.timing.frames(1) - frames} of its {target.timing.frames(1)} frames are missing"
    )
