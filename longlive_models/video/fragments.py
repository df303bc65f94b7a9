"""The fragments of an mp4 that grows: where they lie in the file, and the pictures in them.

A browser plays such a file while it is written: it is given the header, then fragments as they
come (Media Source Extensions), the same bytes as in the file.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from PIL import Image

from longlive_models.video.append import announced_frames, mp4_boxes
from longlive_models.video.files import png_bytes

_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A block of frames in an mp4.

    Attributes:
        index: its number, from 0.
        start, end: its first byte, and the byte after its last one.
        first: the number of its first frame in the video.
        frames: how many frames it has.
    """

    index: int
    start: int
    end: int
    first: int
    frames: int


class FragmentIndex:
    """The places of the header and of all whole fragments of an mp4, read as the file grows.

    Attributes:
        path: the file, which need not exist yet.
        header: the length of the header, in bytes; 0 while there is none.
        fragments: the whole fragments that ``refresh`` has seen, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = 0
        self.fragments: list[Fragment] = []

    @property
    def end(self) -> int:
        """The byte after the last whole fragment."""
        return self.fragments[-1].end if self.fragments else self.header

    @property
    def frames(self) -> int:
        """The number of frames in all fragments."""
        last = self.fragments[-1] if self.fragments else None
        return 0 if last is None else last.first + last.frames

    def refresh(self) -> list[Fragment]:
        """Look for fragments behind those that are known; returns the new ones."""
        known = len(self.fragments)
        if not self.path.is_file():
            return []
        with open(self.path, "rb") as file:
            start, frames = self.end, 0
            for kind, place, length in mp4_boxes(file, self.end):
                if kind == b"moof":
                    self.header = self.header or place
                    start = place
                    file.seek(place + 8)
                    frames = announced_frames(file.read(length - 8))
                if kind == b"mdat":
                    self.fragments.append(
                        Fragment(
                            index=len(self.fragments),
                            start=start,
                            end=place + length,
                            first=self.frames,
                            frames=frames,
                        )
                    )
        return self.fragments[known:]

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the file."""
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def read_header(self) -> bytes:
        """The header, which a player is given first."""
        return self.read(0, self.header)


def codec_name(header: bytes) -> str:
    """The codec of an mp4 as RFC 6381 names it: avc1, profile, constraints and level.

    Raises:
        ValueError: the header has no H.264 configuration.
    """
    place = header.find(b"avcC")
    if place < 0 or len(header) < place + 8:
        raise ValueError(
            "the header names no H.264 video, and no other codec is written here: it is not the "
            "header of a file of this library. Read it from the start of the file."
        )
    profile, constraints, level = header[place + 5 : place + 8]
    return f"avc1.{profile:02X}{constraints:02X}{level:02X}"


def pictures(header: bytes, fragment: bytes, kind: str = "png") -> list[bytes]:
    """The frames of one fragment as png or jpeg files.

    Raises:
        ValueError: ``kind`` is neither "png" nor "jpeg".
    """
    if kind not in _ENCODERS:
        raise ValueError(
            f"pictures are {' or '.join(_ENCODERS)}, got {kind!r}: browsers show these."
        )
    encode = _ENCODERS[kind]
    with av.open(io.BytesIO(header + fragment), "r", format="mp4") as container:
        return [
            encode(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]


def _jpeg_bytes(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


_ENCODERS: dict[str, Callable[[torch.Tensor], bytes]] = {"png": png_bytes, "jpeg": _jpeg_bytes}
