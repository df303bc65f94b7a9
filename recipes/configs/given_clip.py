"""The clip that a generated video goes on from, as records and snapshots hold it. No torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class GivenClip:
    """A clip that a video goes on from.

    Attributes:
        path: its file.
        cut: whether a new shot begins after it.
        prompt: with a cut, what it shows; the video's first prompt if it is None.
        sha256: the hash of the file when the video began, if a record or a snapshot has it.
    """

    path: Path
    cut: bool = False
    prompt: str | None = None
    sha256: str | None = None
