"""Reading videos and pictures from files, as a viewer shows them.

Frames are rotated and stretched as the file's header says, and put on white where they are
transparent. Of a file that is cut off, the complete frames are read, with a warning.
"""

import io
import os
import struct
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from longlive_models.timing import check_fps
from longlive_models.video.append import cut_mp4
from longlive_models.video.facts import VideoFacts
from longlive_models.video.picture import (
    BEHIND,
    MOST_PIXELS,
    Pixels,
    as_shown,
    check_pixels,
    damage_is_named,
    open_file,
    open_picture,
    read_picture,
    refusal,
)

Frames = UInt8[Tensor, "frames height width 3"]
Moving = GifImageFile | PngImageFile | WebPImageFile | AvifImageFile

_FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,ogg,mpegts,mpeg,mpegvideo,asf,h264,hevc,av1,obu,ivf,m4v,mjpeg,"
    "yuv4mpegpipe,nut,dv,wtv,mxf"
)
"""The formats that FFmpeg may use: containers of frames, but no playlists, which open other
files."""
_NO_DELAY = 100
"""How many milliseconds viewers show a frame of an animation that names no time."""


class CutShort(UserWarning):
    """The warning that a video file is cut off; its complete frames were read."""


def read_video(path: str | Path, *, fps: float | None = None) -> tuple[Frames, float]:
    """All frames of a video and its frames a second.

    Args:
        path: a video file, a picture (one frame, of a second), or a folder of numbered png
            frames, as a ``VideoWriter`` writes it.
        fps: frames a second in place of the file's own; needed for a folder, which has none.

    Raises:
        ValueError: there is no such file, it holds no video, is damaged, or takes more memory
            than there is.

    Warns:
        CutShort: the file ends in the middle of a block, which is left out.
    """
    why = "frames a second of the video. Use, say, 12."
    rate = None if fps is None else check_fps("fps", fps, why=why)
    if Path(path).is_dir():
        if rate is None:
            raise ValueError(
                f"{path} is a folder of frames, which does not say how many there are a second: "
                f"pass fps."
            )
        return _read_folder(Path(path)), rate
    with open_file(path, "a video") as file:
        image = open_picture(path, file)
        if image is None:
            frames, own = VideoFile(path, file).read()
        elif isinstance(image, Moving) and _moves(path, image):
            frames, own = _read_moving(path, image)
        else:
            picture = read_picture(path, file)
            assert picture is not None
            frames, own = picture[None], 1.0
    return frames, own if rate is None else rate


def read_image(path: str | Path) -> Pixels:
    """The picture in an image file, or the first one of a video's.

    Raises:
        ValueError: the file is not there, holds no picture, or one that is damaged or too large.
    """
    with open_file(path, "an image") as file:
        picture = read_picture(path, file)
        if picture is not None:
            return picture
        clip = VideoFile(path, file, kind="an image")
        with closing(clip.frames()) as frames:
            for frame in frames:
                return frame
        raise refusal(path, clip.kind, "it holds no whole frame")


def _read_folder(folder: Path) -> Frames:
    """Frames in the order of their numbers; the last may be cut."""
    found = sorted(
        (int(file.stem), file) for file in folder.glob("[0-9]*.png") if file.stem.isdecimal()
    )
    if not found:
        raise ValueError(
            f"{folder} holds no frames: they are named 00000.png, 00001.png and so on. Name the "
            f"folder that a video's frames were written to."
        )
    frames: Tensor | None = None
    for place, (number, file) in enumerate(found):
        if number != found[0][0] + place:
            raise ValueError(
                f"{folder} lacks frame {found[0][0] + place}, and has frame {number}: a video is "
                f"whole. Put it back, or move the frames after it away."
            )
        try:
            image = read_image(file)
        except ValueError as error:
            if frames is None or number != found[-1][0]:
                raise
            _warn(folder, place, f"its last frame is not whole ({error})")
            return frames[:place]
        if frames is None:
            frames = _room(folder, len(found), *image.shape[:2])
        frames[place] = _same_size(file, image, frames)
    assert frames is not None
    return frames


def _moves(path: str | Path, image: Moving) -> bool:
    with damage_is_named(path):
        return image.n_frames > 1 or image.format == "GIF"


def _read_moving(path: str | Path, image: Moving) -> tuple[Frames, float]:
    """A moving picture: its rate is that of all its frames together, not of the shortest."""
    with damage_is_named(path):
        first = int(bool(image.info.get("default_image", False)))  # a png's stand-in, not shown
        count = image.n_frames - first
    frames = _room(path, count, image.height, image.width)
    milliseconds = 0
    for place in range(count):
        try:
            with damage_is_named(path):
                image.seek(first + place)
                picture = as_shown(image)
        except ValueError:
            if place == 0:
                raise
            _warn(path, place, f"what follows is not whole: {count - place} of {count} or more")
            return frames[:place], 1000 * place / milliseconds
        frames[place] = _same_size(f"{path}, frame {place}", picture, frames)
        milliseconds += image.info.get("duration", 0) or _NO_DELAY
    return frames, 1000 * count / milliseconds


class VideoFile:
    """A video in a container that FFmpeg reads."""

    def __init__(self, path: str | Path, file: IO[bytes], kind: str = "a video") -> None:
        self.path, self.kind = path, kind
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._cut = cut_mp4(file)
        self._short, self._end = False, 0.0
        if self._cut is not None and self._cut.length == 0:
            raise refusal(
                self.path, self.kind, f"it ends inside its first block ({self._cut.missing})"
            )

    def read(self) -> tuple[Frames, float]:
        """All frames and the rate; what is counted first needs no second copy."""
        with self._named_errors(), self._open() as container:
            stream = self._stream(container)
            rate = stream.average_rate
            packets = sum(packet.size > 0 for packet in container.demux(stream))
            announced, lasts = stream.frames, _lasts(container)
        frames: Tensor | None = None
        place = 0
        for place, image in enumerate(self.frames(), start=1):
            if frames is None:
                frames = _room(self.path, max(packets, 1), *image.shape[:2])
            elif place > len(frames):
                more = _room(self.path, 2 * place, *image.shape[:2])
                more[: len(frames)] = frames
                frames = more
            frames[place - 1] = _same_size(f"{self.path}, frame {place - 1}", image, frames)
        if frames is None or not rate:
            raise refusal(self.path, self.kind, "it holds no whole frame")
        missing = self._missing(place, announced, float(rate), lasts)
        if missing is not None:
            _warn(self.path, place, missing)
        return frames[:place], float(rate)

    def frames(self) -> Generator[Pixels, None, None]:
        """The frames as they are shown, up to one that the file does not hold whole."""
        with closing(self.decoded()) as decoded:
            for frame, aspect in decoded:
                yield self.shown(frame, aspect)

    def decoded(self) -> Generator[tuple[av.VideoFrame, Fraction], None, None]:
        """The same frames before they are turned and stretched, each with its pixels' aspect."""
        with self._named_errors(), self._open() as container:
            stream = self._stream(container)
            ratio = stream.sample_aspect_ratio  # a Fraction; from PyAV 19 on a class of its own
            aspect = Fraction(ratio.numerator, ratio.denominator) if ratio else Fraction(1)
            for packet in container.demux(stream):
                if packet.is_corrupt:  # the file ends in the middle of it
                    self._short = True
                    break
                for frame in packet.decode():
                    yield frame, aspect
            else:
                return
            for frame in stream.codec_context.decode(None):  # those that wait for their turn
                yield frame, aspect

    def facts(self) -> VideoFacts:
        """What the file holds, of its packets and its first frame alone."""
        with self._named_errors(), self._open() as container:
            stream = self._stream(container)
            rate, announced, lasts = stream.average_rate, stream.frames, _lasts(container)
            count, starts, ends = 0, [], [0.0]
            for packet in container.demux(stream):
                self._short |= packet.is_corrupt
                if packet.size == 0 or packet.is_corrupt:
                    continue
                count += 1
                if packet.pts is not None and packet.time_base is not None:
                    starts.append(float(packet.pts * packet.time_base))
                    ends.append(starts[-1] + float((packet.duration or 0) * packet.time_base))
        with closing(self.frames()) as frames:
            first = next(frames, None)
        if first is None or not rate:
            raise refusal(self.path, self.kind, "it holds no whole frame")
        self._end = max(ends)
        return VideoFacts(
            frames=count,
            seconds=max(ends) - min(starts) if starts else count / float(rate),
            fps=float(rate),
            height=first.shape[0],
            width=first.shape[1],
            missing=self._missing(count, announced, float(rate), lasts),
        )

    def _missing(self, frames: int, announced: int, rate: float, lasts: float) -> str | None:
        """What is not there of a file of so many whole frames; None where it is whole."""
        early = self._end + 0.5 / rate < lasts
        if self._cut is not None:
            return self._cut.missing
        if self._short or early or frames < announced:
            return f"its header announces {announced}" if announced else "the next one is not"
        return None

    def _open(self) -> InputContainer:
        length = self._size if self._cut is None else self._cut.length
        # from a file, not from a name; and no list of other files, nor addresses, is followed
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        return av.open(_Part(self._file, length), "r", options=options)

    def _stream(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise refusal(
                self.path,
                self.kind,
                f"it is a file of {container.format.name} without a video in it",
            )
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise refusal(self.path, self.kind, "its frames are of a kind that is not known")
        check_pixels(str(self.path), stream.height, stream.width)
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # frames inside may differ
        return stream

    def shown(self, frame: av.VideoFrame, aspect: Fraction) -> Pixels:
        """One of the frames that ``decoded`` gave, as it is shown."""
        with self._named_errors():
            return self._pixels(frame, aspect)

    def _pixels(self, frame: av.VideoFrame, aspect: Fraction) -> Pixels:
        if frame.is_corrupt:
            raise refusal(self.path, self.kind, "a frame is damaged")
        self._end = (frame.time or 0.0) + float(frame.duration * (frame.time_base or 0))
        clear = any(component.is_alpha for component in frame.format.components)
        width = max(1, round(frame.width * aspect))  # pixels of a clip may be wider than high
        pixels = frame.to_ndarray(format="rgba" if clear else "rgb24", width=width)
        if clear:
            share = pixels[..., 3:].astype(np.float32) / 255
            over = pixels[..., :3] * share + np.array(BEHIND, np.float32) * (1 - share)
            pixels = over.round().astype(np.uint8)
        matrix: Any = frame.side_data.get(SideData.DISPLAYMATRIX.name)
        if matrix is not None:
            pixels = _turned(pixels, struct.unpack("=9i", bytes(matrix)))
        return torch.from_numpy(np.ascontiguousarray(pixels))

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except av.error.FFmpegError as error:
            known = isinstance(error, av.error.ArgumentError)  # of none of the formats above
            reason = "it is of no kind that is read, or cut" if known else error.strerror
            raise refusal(self.path, self.kind, str(reason)) from error


def _lasts(container: InputContainer) -> float:
    """Seconds, where a header tells those of its one video: of Matroska, which counts no frames."""
    known = "matroska" in container.format.name and len(container.streams) == 1
    return (container.duration or 0) / av.time_base if known else 0.0


class _Part:
    """The first bytes of a file, without its name, which FFmpeg would take for an address."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file, self._length = file, length
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return self._file.seek(self._length + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _turned(pixels: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """A frame as the display matrix of its header has it: turned by right angles, or mirrored.

    The matrix takes a place (x, y) to (a x + c y, b x + d y); see ISO/IEC 14496-12.
    """
    a, b, _, c, d, *_ = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels = pixels.transpose(1, 0, 2)
        across, down = c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _room(path: str | Path, count: int, height: int, width: int) -> Tensor:
    """Memory for frames, which takes none before they come; refused if there is less."""
    check_pixels(str(path), height, width)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * height * width * 3 > have:
        raise ValueError(
            f"{path} holds {count:,} frames of {width}x{height}, {count * height * width * 3:,} "
            f"bytes: this machine has a memory of {have:,}. Cut or shrink it."
        )
    return torch.empty(count, height, width, 3, dtype=torch.uint8, device="cpu")


def _same_size(what: str | Path, image: Pixels, frames: Tensor) -> Pixels:
    if image.shape != frames.shape[1:]:
        raise ValueError(
            f"{what} is {image.shape[1]}x{image.shape[0]}, and the frames before are "
            f"{frames.shape[2]}x{frames.shape[1]}: all frames of a video have one size."
        )
    return image


def _warn(path: str | Path, frames: int, missing: str) -> None:
    warnings.warn(
        f"{path} is cut: its first {frames} frames are whole and were read; {missing}.",
        CutShort,
        stacklevel=4,
    )
