"""Look at clips of one's own before a GPU is paid for: what is wrong, what it will take.

Command:  longlive data check FOLDER
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from longlive_models.first_frame import image_to_pixels
from longlive_models.text.tokenizer import words
from longlive_models.video import contact_sheet, write_png
from longlive_recipes.configs.prepare_data import PrepareData
from longlive_recipes.data.encoding import ClipEncoder, frames_of
from longlive_recipes.data.layouts import Found, Skipped
from longlive_recipes.data.prepare import choose_device
from longlive_recipes.data.survey import Looked, Planned, Survey, survey, without
from longlive_recipes.data.target import Target, find_target

MEASURED, MEASURED_SECONDS = 4, 15.0
"""Videos that are encoded to see how long that takes, and after how long it is known."""

ON_SHEET, COLUMNS = 24, 6


NEAR = 4
"""A shot that lacks so few frames for another block loses most of one for them."""


@dataclass(frozen=True, kw_only=True)
class NearMiss:
    """A video, and how many frames one of its shots lacks for another block."""

    name: str
    frames: int


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a folder's clips amount to, and what it takes to prepare them.

    Attributes:
        videos: that can be used.
        clips: how many there are of each length in blocks.
        seconds: of these videos; ``used`` are in the clips, the rest is shorter than a block.
        skipped: what cannot be used, and why.
        near: what lacks ``NEAR`` frames or fewer for another block, whose other frames are lost.
        bytes: of the cache.
        hours: of preparing on ``device``, from what its first clips took.
        longest_caption, words: words of the longest caption, and different ones in all.
    """

    place: str
    layout: str
    videos: int
    clips: dict[int, int]
    seconds: float
    used: float
    skipped: tuple[Skipped, ...]
    near: tuple[NearMiss, ...]
    bytes: int
    hours: float
    device: str
    longest_caption: int
    words: int
    sheet: str | None


def check(
    config: PrepareData,
    found: Found,
    *,
    sheet: Path | None = None,
    looked: Looked = lambda done, total, name: None,
) -> Checked:
    """Look at every video, encode the first ones, and draw a sheet of first frames.

    Args:
        sheet: a png that is written, of the first frames as the model gets them.

    Raises:
        ValueError: nothing can be used.
    """
    target = find_target(config)
    seen = survey(found, target, looked)
    device = choose_device(config.device)
    if sheet is not None:
        seen = draw_sheet(seen, found.place, target, sheet)
    captions = {shot.caption for one in seen.planned for shot in one.source.shots}
    spoken = [words(caption) for caption in captions]
    return Checked(
        place=str(found.place),
        layout=found.layout,
        videos=len(seen.planned),
        clips=seen.clips_by_blocks,
        seconds=sum(one.seconds for one in seen.planned),
        used=sum(target.timing.seconds(len(clip)) for one in seen.planned for clip in one.clips),
        skipped=seen.skipped,
        near=tuple(
            NearMiss(name=one.source.name, frames=missing)
            for one in seen.planned
            for missing in one.missing
            if 0 < missing <= NEAR
        ),
        bytes=seen.blocks * target.bytes_per_block,
        hours=seen.blocks * _seconds_a_block(seen, target, device) / 3600,
        device=str(device),
        longest_caption=max(map(len, spoken)),
        words=len({word for caption in spoken for word in caption}),
        sheet=None if sheet is None else str(sheet),
    )


def draw_sheet(seen: Survey, place: Path, target: Target, path: Path) -> Survey:
    """Write the first frames of the first videos, cropped to the model's size.

    Returns:
        the survey without the videos whose first frame cannot be decoded.

    Raises:
        ValueError: no video is left.
    """
    frames: list[torch.Tensor] = []
    damaged: dict[str, str] = {}
    for one in seen.planned:
        try:
            frame = _first_frame(one, target)
        except ValueError as error:
            damaged[one.source.name] = str(error)
            continue
        if frame is None:
            damaged[one.source.name] = "it has no frame where its first shot begins"
            continue
        frames.append(frame)
        if len(frames) == ON_SHEET:
            break
    seen = without(seen, damaged, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, contact_sheet(torch.stack(frames), columns=min(COLUMNS, len(frames))))
    return seen


def _first_frame(one: Planned, target: Target) -> torch.Tensor | None:
    for _, pixels in frames_of(one.source, target):
        video = image_to_pixels(pixels, target.height, target.width)
        return ((video[0, :, 0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return None


def _seconds_a_block(seen: Survey, target: Target, device: torch.device) -> float:
    """What reading and encoding a block takes: of the first clips, the very first left out."""
    encoder = ClipEncoder(target, device)
    took, blocks, began = 0.0, 0, time.monotonic()
    for place, one in enumerate(seen.planned[:MEASURED]):
        start = time.monotonic()
        try:
            made = next(encoder.clips(one.source), None)
        except ValueError:  # damaged within: preparing it will say so
            continue
        now = time.monotonic()
        if made is not None:
            if place == 1:
                took, blocks = 0.0, 0  # the first clip paid for what is done once
            took, blocks = took + now - start, blocks + len(made.captions)
        if now - began > MEASURED_SECONDS:
            break
    return took / max(blocks, 1)
