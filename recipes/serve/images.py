"""Pictures that clients send, kept as png files that are named by their hash."""

import hashlib
import re
from pathlib import Path

from longlive_models.video.files import png_bytes
from longlive_models.video.picture import picture_of
from longlive_recipes.serve.errors import Refused

MOST_PIXELS = 4096 * 4096
"""The most pixels of a picture that is sent."""
MOST_KEPT = 64
"""How many pictures wait to be used; the oldest goes first."""
_ID = re.compile(r"[0-9a-f]{64}")


class Images:
    """The pictures in a folder. Nothing of what a client sent but the pixels is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Decode and keep a picture; returns its id.

        Raises:
            Refused: it is no picture, is damaged, or has too many pixels.
        """
        try:
            pixels = picture_of(data, most_pixels=MOST_PIXELS)
        except ValueError as error:
            raise Refused(" ".join(str(error).split()), 415) from error
        png = png_bytes(pixels)
        name = hashlib.sha256(png).hexdigest()
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{name}.png").write_bytes(png)
        kept = sorted(self._folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
        return name

    def path(self, name: str) -> Path:
        """The file of a picture. Raises Refused if there is none with this id."""
        path = self._folder / f"{name}.png"
        if not _ID.fullmatch(name) or not path.is_file():
            raise Refused("there is no such picture here: send it first, and use its id.", 404)
        return path
