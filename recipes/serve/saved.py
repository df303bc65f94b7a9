"""What a server writes down of each video, so that another one can go on with it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_models.documents import read_json
from longlive_models.prompts.storyboard import Shot, Storyboard
from longlive_models.schema import build
from longlive_models.video.append import cut_mp4
from longlive_recipes.run_record import as_plain, replace_file

FILE = "session.json"
VIDEO = "video.mp4"
IMAGE = "image.png"
SNAPSHOTS = "snapshots"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a client asks to be made; None leaves a choice to the model.

    Attributes:
        shots: the prompts, with a cut between each two.
        seed: the seed of the noise.
        seconds: the length; None for as long as the server allows.
        sampler, steps, guidance, negative_prompt: see ``longlive generate``.
        crf: the quality of the mp4.
        weights: the precision of the weights, one of those that are offered.
    """

    shots: tuple[Shot, ...]
    seed: int = 0
    seconds: float | None = None
    sampler: str | None = None
    steps: int | tuple[int, ...] | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    crf: int | None = None
    weights: str | None = None

    @property
    def story(self) -> Storyboard:
        """The prompts as a storyboard."""
        return Storyboard(shots=self.shots)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A video of a server, as it is written down.

    Attributes:
        id: its name in addresses and the name of its folder.
        kind: "session" for one that is watched, "video" for a job.
        created: when it was asked for, in seconds since 1970.
        state: "queued", "running", "ended" or "failed".
        wish: what was asked for.
        shots: the prompts of the plan and the block where each begins.
        events: how it was steered.
        parent, parent_block: what it was forked from, and where.
        notes: what is to be said of it, such as words that the model does not know.
        error: why it failed, in a sentence.
        finished: when it ended, in seconds since 1970.
    """

    id: str
    kind: str
    created: float
    state: str
    wish: Wish
    shots: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    parent: str | None = None
    parent_block: int | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    finished: float | None = None

    def write(self, folder: Path) -> None:
        """Replace the file in one step."""
        text = json.dumps({"format": _FORMAT, **as_plain(self)}, indent=2)
        replace_file(folder / FILE, text + "\n")


def read_saved(folder: Path) -> Iterator[tuple[Path, Saved]]:
    """All videos in a server's folder, oldest first; other folders are left alone.

    What a kill cut off is mended: the part of a block at a file's end, and files that were being
    written.
    """
    found = []
    for file in sorted(folder.glob(f"*/{FILE}")):
        values = read_json(file, "a video of a server")
        values.pop("format", None)
        saved = build(Saved, values, file)
        if saved.id != file.parent.name:
            continue  # a copy, under another name
        _mend(file.parent)
        found.append((file.parent, saved))
    yield from sorted(found, key=lambda one: one[1].created)


def _mend(folder: Path) -> None:
    for unfinished in (*folder.rglob(".*.new"), *folder.glob("*.part")):
        unfinished.unlink(missing_ok=True)
    video = folder / VIDEO
    if not video.is_file():
        return
    with open(video, "rb") as file:
        cut = cut_mp4(file)
    if cut is not None and cut.length == 0 or video.stat().st_size == 0:
        video.unlink()
    elif cut is not None:
        os.truncate(video, cut.length)
