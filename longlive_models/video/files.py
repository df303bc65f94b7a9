"""Frames to a file and back: fragmented mp4, animated gif, or a folder of png frames.

Every call of `VideoWriter.write` appends a complete piece, so what has been written so far is a
playable video at any moment, also after the process is killed. An mp4 grows by closed fragments,
each with an encoder of its own that starts on a key frame; a gif by images with palettes of their
own; a folder by png files.
"""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, runtime_checkable

import av
import torch
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from torch import Tensor

from longlive_core.checks import whole
from longlive_core.tensor_checks import present
from longlive_models.timing import check_fps
from longlive_models.video.append import GIF_END, VideoStart, with_gif_times
from longlive_models.video.file_name import SUFFIXES as SUFFIXES
from longlive_models.video.file_name import destination as destination
from longlive_models.video.picture import check_pixels
from longlive_models.video.reader import CutShort as CutShort
from longlive_models.video.reader import read_image as read_image
from longlive_models.video.reader import read_video as read_video

CRF = 16
"""The default quality of an mp4, whose errors are hardly visible."""
WORST_CRF = 51
BT709 = 1  # primaries and transfer as ITU-T H.273 numbers them
SIDES = {".mp4": 16_384, ".gif": 65_535, ".png": 65_535}
"""The longest side of a frame: the H.264 encoder's limit for mp4, sixteen bits for others."""
GIF_TIMES = (1, 65_535)
"""Hundredths of a second that a gif's frame can last."""
ENCODER_THREADS = 8
"""How many frames of a block are encoded at a time: a constant, as the bytes name it."""


def check_size(path: str | Path, size: tuple[int, int]) -> None:
    """Raise ValueError where frames of (height, width) cannot be stored in a file of this kind."""
    suffix = Path(path).suffix.lower()
    longest = SIDES.get(suffix, max(SIDES.values()))
    why = f"a side of a frame in pixels; a {suffix or 'frame'} has sides of {longest:,} at most."
    height, width = (
        whole(name, side, at_least=1, at_most=longest, why=why)
        for name, side in zip(("height", "width"), size, strict=True)
    )
    check_pixels("a frame", height, width)
    if suffix == ".mp4" and (height % 2 or width % 2):
        raise ValueError(
            f"mp4 needs an even height and width, got {height}x{width}: its colors are stored at "
            f"half size. Use an even size, or write a .gif or .png."
        )


def check_rate(path: str | Path, fps: float | Fraction) -> Fraction:
    """``fps`` as it is stored in a file of this kind. Raises ValueError where it cannot be."""
    why = "a video has more than 0 frames a second, say, 12."
    check_fps("fps", fps, why=why)  # the fractions below have no smaller number
    rate = Fraction(fps).limit_denominator(1001)
    shortest, longest = GIF_TIMES
    if Path(path).suffix.lower() == ".gif" and not shortest <= 100 / rate <= longest:
        raise ValueError(
            f"a gif has at most {100 // shortest} frames a second, got {float(fps):g}: each lasts "
            f"{shortest} to {longest:,} hundredths of a second. Write an .mp4, or fewer frames."
        )
    return rate


@runtime_checkable
class _Sink(Protocol):
    def append(self, frames: Tensor, first: int) -> None: ...


def check_crf(path: str | Path, crf: int | None) -> None:
    """Raise ValueError for a quality that no mp4 has, or that is not of an mp4."""
    if crf is None:
        return
    why = f"it is the quality of an mp4, from 0, the best, to {WORST_CRF}. Use, say, 23."
    whole("crf", crf, at_least=0, at_most=WORST_CRF, why=why)
    if Path(path).suffix.lower() != ".mp4":
        raise ValueError(
            f"crf={crf} is the quality of an mp4, and {path} is none: a .gif has its colors, and "
            f".png frames lose nothing. Leave it out, or name an .mp4."
        )


class VideoWriter:
    """Writes blocks of frames to one video; each is in the file when `write` returns.

    `size` is (height, width). Nothing is created before the first frames come, so a writer that
    never gets any leaves nothing behind. An existing output is refused unless `overwrite` is set.
    `start` goes on from the first frames of a video of the same kind: in place, where it is that
    of `path`, else on a copy; `frames` then counts them too. `crf` is the quality of an mp4,
    `CRF` unless given; all pieces of one file need the same.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | Fraction,
        size: tuple[int, int],
        overwrite: bool = False,
        start: VideoStart | None = None,
        crf: int | None = None,
    ) -> None:
        self.path = destination(path)
        check_size(path, size)
        check_crf(path, crf)
        self._crf = CRF if crf is None else crf
        self.fps = check_rate(path, fps)
        self.size = size
        self.frames = 0 if start is None else start.frames
        self._start = start
        self._suffix = Path(path).suffix.lower()
        self._overwrite = overwrite
        self._sink: _Sink | None = None
        self._file: IO[bytes] | None = None

    def write(self, frames: UInt8[Tensor, "frames height width 3"]) -> None:
        """Append frames; when this returns, they are with the operating system.

        Raises:
            ValueError: frames of another size or type.
            OSError: they could not be stored completely, as on a full disk; the file then is the
                playable video that it was before, as it is where an interrupt comes meanwhile.
        """
        present("what VideoWriter writes", frames, why="it is uint8 [frames, height, width, 3].")
        if tuple(frames.shape[1:]) != (*self.size, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"{self.path} takes uint8 frames of shape [frames, {self.size[0]}, "
                f"{self.size[1]}, 3], got {frames.dtype} {list(frames.shape)}."
            )
        if len(frames) == 0:
            return
        if self._sink is None:
            self._sink = self._open()
        try:
            self._sink.append(frames.cpu().contiguous(), self.frames)
        except KeyboardInterrupt:
            self._forget_nothing()
            raise
        except OSError as error:
            self._forget_nothing()
            raise OSError(error.errno, self._loss(error, len(frames)), str(self.path)) from error
        self.frames += len(frames)

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _loss(self, error: OSError, frames: int) -> str:
        held = f"the {self.frames} frames before it are there, whole" if self.frames else "no other"
        return (
            f"{error.strerror or error}: the block of frames {self.frames} to "
            f"{self.frames + frames - 1} could not be stored; {held}"
        )

    def _forget_nothing(self) -> None:
        """Remove a file or folder that was created and has no frame."""
        if self.frames == 0:
            self.close()
            self._sink = self._file = None
            if self.path.is_dir():
                self.path.rmdir()
            else:
                self.path.unlink()

    def _open(self) -> _Sink:
        pieces = 0
        if self._start is not None:
            pieces = self._start.lay(self.path, overwrite=self._overwrite)
        elif self._suffix == ".png":
            self.path.mkdir(exist_ok=self._overwrite)
            for old in self.path.glob("[0-9]*.png"):
                old.unlink()
        if self._suffix == ".png":
            return _Frames(self.path)
        fresh = "wb" if self._overwrite else "xb"
        mode = fresh if self._start is None else "r+b"
        # unbuffered: what is written survives the process
        file = self._file = open(self.path, mode, buffering=0)  # noqa: SIM115
        file.seek(0, io.SEEK_END)
        if self._suffix == ".gif":
            return _Gif(file, self.fps, pieces)
        return _Mp4(file, self.fps, pieces, crf=self._crf)


class _Mp4:
    """H.264 in a fragmented mp4: header once, then one fragment (moof and mdat) a block."""

    def __init__(
        self, file: IO[bytes], fps: Fraction, fragments: int = 0, *, crf: int = CRF
    ) -> None:
        self.file, self.fps, self.fragments, self.crf = file, fps, fragments, crf

    def append(self, frames: Tensor, first: int) -> None:
        kinds = {"moof", "mdat"} if self.fragments else {"ftyp", "moov", "moof", "mdat"}
        boxes = _boxes(self._fragment(frames, first))
        place = self.file.seek(0, io.SEEK_END)
        _write_whole(self.file, b"".join(box for kind, box in boxes if kind in kinds), place)
        self.fragments += 1

    def _fragment(self, frames: Tensor, first: int) -> bytes:
        """A whole small mp4 whose only fragment has the time and number it has in the long one."""
        options = {
            "movflags": "frag_custom+empty_moov+default_base_moof+frag_discont+skip_trailer",
            "fragment_index": str(self.fragments + 1),
            "avoid_negative_ts": "disabled",  # else every fragment would be moved to time 0
        }
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=self.fps)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            # no mbtree: it reads memory that nobody wrote, and now and then gives other bytes
            stream.options = {"crf": str(self.crf), "preset": "fast", "bf": "0", "mbtree": "0"}
            codec = stream.codec_context
            codec.gop_size = len(frames) + 1
            # PyAV asks for slices, as many as there are cores: they cost bytes, and are not the
            # same ones everywhere. Whole frames side by side are, and none is left behind below.
            codec.thread_type, codec.thread_count = "FRAME", ENCODER_THREADS
            codec.color_primaries = codec.color_trc = BT709
            codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
            for i, frame in enumerate(_video_frames(frames, first, self.fps)):
                yuv = frame.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                yuv.pts, yuv.time_base = first + i, 1 / self.fps
                container.mux(stream.encode(yuv))
            container.mux(stream.encode())
        return buffer.getvalue()


def _boxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    start = 0
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind.decode("ascii"), data[start : start + length]
        start += length


class _Gif:
    """Images with a palette a block; the end mark is written each time and overwritten by more."""

    def __init__(self, file: IO[bytes], fps: Fraction, images: int = 0) -> None:
        self.file, self.fps, self.images = file, fps, images

    def append(self, frames: Tensor, first: int) -> None:
        ends = [round(100 * n / self.fps) for n in range(first, first + len(frames) + 1)]
        times = [end - start for start, end in zip(ends, ends[1:], strict=False)]
        data, place = with_gif_times(self._animation(frames), times), 0
        if self.images:
            place = self.file.seek(-len(GIF_END), io.SEEK_END)
            data = data[data.index(b"\x21\xf9\x04") :]  # a control block, where the header ends
        _write_whole(self.file, data, place, end=GIF_END if self.images else b"")
        self.images += len(frames)

    def _animation(self, frames: Tensor) -> bytes:
        height, width = frames.shape[1:3]
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="gif", options={"loop": "0"}) as container:
            stream = container.add_stream("gif", rate=self.fps)
            stream.options = {
                "global_palette": "0",
                "gifflags": "-transdiff",
            }  # images of later blocks bring their own
            stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
            for image in self._with_palette(frames):
                container.mux(stream.encode(image))
            container.mux(stream.encode())
        return buffer.getvalue()

    def _with_palette(self, frames: Tensor) -> Iterator[av.VideoFrame]:
        graph = av.filter.Graph()
        height, width = frames.shape[1:3]
        pixels = av.VideoFormat("rgb24", width, height)
        source = graph.add_buffer(width=width, height=height, format=pixels, time_base=1 / self.fps)
        split, palette = graph.add("split"), graph.add("palettegen")
        use, sink = graph.add("paletteuse", "dither=none"), graph.add("buffersink")
        source.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(use, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        for frame in _video_frames(frames, 0, self.fps):
            source.push(frame)
        source.push(None)
        for _ in range(len(frames)):  # the palette is known, and images come, once all are in
            image = sink.pull()
            assert isinstance(image, av.VideoFrame)
            yield image


class _Frames:
    """One png a frame, numbered from 00000."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, frames: Tensor, first: int) -> None:
        paths = [self.folder / f"{first + n:05d}.png" for n in range(len(frames))]
        try:
            for path, frame in zip(paths, frames, strict=True):
                write_png(path, frame)
        except (OSError, KeyboardInterrupt):
            for path in paths:
                path.unlink(missing_ok=True)
            raise


def _write_whole(file: IO[bytes], data: bytes, place: int, end: bytes = b"") -> None:
    """Write all of ``data`` at ``place``; else leave what was before it, closed by ``end``."""
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]  # of a large write the system may take a part
    except (OSError, KeyboardInterrupt):
        file.truncate(place)
        file.seek(place)
        file.write(end)
        raise


def _video_frames(frames: Tensor, first: int, fps: Fraction) -> Iterator[av.VideoFrame]:
    for number, frame in enumerate(frames, start=first):
        image = av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")
        image.pts, image.time_base = number, 1 / fps
        yield image


def png_bytes(image: UInt8[Tensor, "height width 3"]) -> bytes:
    """One picture as a png file holds it."""
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(image.cpu().contiguous().numpy(), format="rgb24")
    packets = [*codec.encode(frame), *codec.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def write_png(path: str | Path, image: UInt8[Tensor, "height width 3"]) -> None:
    """Write one picture."""
    present("a picture", image, why="it is uint8 [height, width, 3].")
    with open(path, "wb", buffering=0) as file:
        _write_whole(file, png_bytes(image), 0)


def contact_sheet(
    frames: UInt8[Tensor, "frames height width 3"], *, columns: int, gap: int = 4
) -> UInt8[Tensor, "sheet_height sheet_width 3"]:
    """Frames in rows of `columns`, left to right, on white, `gap` pixels apart."""
    present("the frames of a sheet", frames, why="they are uint8 [frames, height, width, 3].")
    columns = whole("columns", columns, at_least=1, why="a row of the sheet has so many frames.")
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = torch.full(shape, 255, dtype=torch.uint8, device="cpu")
    for i, frame in enumerate(frames):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    return sheet
