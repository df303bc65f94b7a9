"""Continuing a video file that this library wrote, from its first frames or a copy of them.

Files grow by complete pieces (see ``longlive_models.video.files``), so the first frames are the
first so many bytes. Frames are counted in the file: in fragments of an mp4, or images of a gif.
"""

import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GIF_END = b"\x3b"
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9


@dataclass(frozen=True, kw_only=True)
class VideoStart:
    """The first ``frames`` of the video at ``path``, an mp4, a gif, or a folder of png frames."""

    path: Path
    frames: int

    @property
    def suffix(self) -> str:
        """The suffix of the path that was given to the ``VideoWriter``."""
        return ".png" if self.path.is_dir() else self.path.suffix.lower()

    def require(self) -> None:
        """Raise ValueError unless the file has these frames and a piece ends with them."""
        self._measure()

    def lay(self, target: Path, *, overwrite: bool = False) -> int:
        """Make ``target`` hold exactly these frames; returns how many pieces it has then.

        Raises:
            ValueError: see ``require``.
            FileExistsError: another video than this one, without ``overwrite``.
        """
        length, pieces = self._measure()
        own = target.exists() and target.samefile(self.path)
        if self.path.is_dir():
            target.mkdir(exist_ok=own or overwrite)
            for old in target.glob("[0-9]*.png"):
                if not own or old.name >= _frame(target, self.frames).name:
                    old.unlink()
            for number in range(0 if own else self.frames):
                shutil.copyfile(_frame(self.path, number), _frame(target, number))
            return pieces
        if own:
            os.truncate(target, length)
        else:
            with open(self.path, "rb") as source, open(target, "wb" if overwrite else "xb") as copy:
                copy.write(source.read(length))
        if self.suffix == ".gif":
            with open(target, "ab") as file:
                file.write(GIF_END)
        return pieces

    def _measure(self) -> tuple[int, int]:
        """Bytes and pieces that the frames take."""
        if not self.path.exists():
            raise ValueError(
                f"there is no video {str(self.path)!r}: what comes next is appended to its first "
                f"{self.frames} frames. Put it back, or write the rest alone."
            )
        if self.path.is_dir():
            found = sum(_frame(self.path, number).is_file() for number in range(self.frames))
            ends = [(found, 0, found)]
        elif self.suffix == ".gif":
            ends = list(_gif_images(self.path))
        else:
            ends = list(_mp4_fragments(self.path))
        for frames, length, pieces in ends:
            if frames == self.frames:
                return length, pieces
        last = ends[-1][0] if ends else 0
        raise ValueError(
            f"{self.path} has {last} frames, and none of its blocks ends after frame "
            f"{self.frames}: it is not the video that is to go on, or was cut. Put it back, or "
            f"write the rest alone."
        )


def _frame(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.png"


@dataclass(frozen=True, kw_only=True)
class CutMP4:
    """An mp4 that ends inside a fragment: the bytes before it, and text on what is missing."""

    length: int
    missing: str


def cut_mp4(file: IO[bytes]) -> CutMP4 | None:
    """Where an mp4 of fragments is cut off; None if it is complete or another kind of file."""
    size = os.fstat(file.fileno()).st_size
    whole, announced, place = 0, None, 0
    for kind, place, length in mp4_boxes(file):
        if place == 0 and kind != b"ftyp":
            return None
        if kind == b"moof":
            file.seek(place + 8)
            announced = announced_frames(file.read(length - 8))
        elif kind == b"mdat" and announced is not None:
            whole, announced = place + length, None
        elif whole and announced is None:
            whole = place + length
        place += length
    if whole == size or not (whole or announced):
        return None
    frames = f" of {announced} frames" if announced else ""
    return CutMP4(
        length=whole,
        missing=f"of its next block{frames} {size - whole:,} bytes are there, and no more",
    )


def _mp4_fragments(path: Path) -> Iterator[tuple[int, int, int]]:
    """After each whole fragment: frames, bytes and fragments so far."""
    frames = fragments = 0
    with open(path, "rb") as file:
        for kind, place, length in mp4_boxes(file):
            if kind == b"moof":
                file.seek(place + 8)
                frames += announced_frames(file.read(length - 8))
            if kind == b"mdat":
                fragments += 1
                yield frames, place + length, fragments


def mp4_boxes(file: IO[bytes], place: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of each whole box of an mp4's outermost row, from ``place`` on."""
    size = os.fstat(file.fileno()).st_size
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1 and place + 16 <= size:  # a length that needs 64 bits
            (length,) = struct.unpack(">Q", file.read(8))
        elif length == 0 and kind == b"mdat":  # up to the end of the file
            length = size - place
        if length < 8 or place + length > size:
            return  # a write that was killed
        yield kind, place, length
        place += length


def announced_frames(boxes: bytes) -> int:
    """Frames that the track runs of a fragment's header announce."""
    count = place = 0
    while place + 8 <= len(boxes):
        length, kind = struct.unpack_from(">I4s", boxes, place)
        if length < 8:
            break  # no box: damage
        if kind == b"traf":
            count += announced_frames(boxes[place + 8 : place + length])
        elif kind == b"trun" and place + 16 <= len(boxes):
            count += struct.unpack_from(">I", boxes, place + 12)[0]
        place += length
    return count


def _gif_images(path: Path) -> Iterator[tuple[int, int, int]]:
    """After each whole image: images, bytes and images so far."""
    images = 0
    for kind, _, end in _gif_blocks(path.read_bytes()):
        if kind == _IMAGE:
            images += 1
            yield images, end, images


def with_gif_times(data: bytes, times: Sequence[int]) -> bytes:
    """A gif whose images last the given hundredths of a second."""
    timed, left = bytearray(data), iter(times)
    for kind, place, _ in _gif_blocks(data):
        if kind == _CONTROL:
            struct.pack_into("<H", timed, place + 4, next(left))
    return bytes(timed)


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind (of extensions, their label), start and end of each whole block of a gif.

    See the GIF89a specification.
    """
    place = 13 + _colors(data[10]) if len(data) > 10 else 13
    while place + 1 < len(data) and data[place] in (_EXTENSION, _IMAGE):
        start, kind = place, data[place]
        if kind == _IMAGE:
            if place + 10 > len(data):
                return
            place += 11 + _colors(data[place + 9])
        else:
            kind = data[place + 1]
            place += 2
        while place < len(data) and data[place]:
            place += data[place] + 1
        place += 1
        if place > len(data):
            return
        yield kind, start, place


def _colors(flags: int) -> int:
    """Bytes of the table of colors that a block's flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
