"""Reading pictures from files, as a viewer shows them.

They are rotated as their EXIF data says, put on white where they are transparent, and converted
to eight bits and to sRGB from their color profile. A picture that is cut or damaged is an error,
and one that is too large is refused from its header. Pillow decodes; files are opened here, so that
a name is always a path.
"""

import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

Pixels = UInt8[Tensor, "height width 3"]

BEHIND = (255, 255, 255)
"""The color behind transparent pixels: white, like a page."""
MOST_BYTES = 2**30
"""Memory that one picture may take: four bytes a pixel as read, twelve as floats in [-1, 1]."""
MOST_PIXELS = MOST_BYTES // (4 + 3 * 4)

_ROWS = 256
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # no format that runs code
_SENT = ("JPEG", "PNG", "WEBP")
_DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, IndexError, struct.error)
"""What Pillow raises at a file that is cut or damaged."""


def check_pixels(what: str, height: int, width: int) -> None:
    """Raise ValueError where a picture of this size would take more than ``MOST_BYTES``."""
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{what} has {width}x{height} pixels, and {MOST_PIXELS:,} are the most: each takes 16 "
            f"bytes while it is read, and a picture may take {MOST_BYTES / 2**30:g} GiB. Make it "
            f"smaller."
        )


@contextmanager
def open_file(path: str | Path, kind: str) -> Iterator[IO[bytes]]:
    """Open a regular file to read it as ``kind``; ``path`` is never taken as a URL.

    Raises:
        ValueError: it is not there, cannot be opened, is empty or no file.
    """
    try:
        there = os.stat(path)
        if not stat.S_ISREG(there.st_mode):
            folder = stat.S_ISDIR(there.st_mode)
            raise refusal(path, kind, "it is a folder" if folder else "it is no regular file")
        if there.st_size == 0:
            raise refusal(path, kind, "it is empty")
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise refusal(path, kind, error.strerror or str(error)) from error
    with file:
        yield file


def refusal(path: str | Path, kind: str, reason: str) -> ValueError:
    """The error to raise for a file that is not of its kind, "an image" or "a video"."""
    named = "png or jpg file" if kind == "an image" else "video, as mp4, mov, mkv, webm or gif,"
    return ValueError(f"{path} cannot be read as {kind}: {reason}. Name a {named} that is whole.")


def open_picture(path: str | Path, file: IO[bytes]) -> Image.Image | None:
    """Open the picture in a file without reading its pixels; None if it is no picture.

    Raises:
        ValueError: damage in its header, or more pixels than ``MOST_PIXELS``.
    """
    with damage_is_named(path):
        try:
            image = _opened(file)
        except Image.UnidentifiedImageError:
            return None
    check_pixels(str(path), image.height, image.width)
    return image


def read_picture(path: str | Path, file: IO[bytes]) -> Pixels | None:
    """Read the pixels of a picture, or of an animation the first ones; None for other files.

    Raises:
        ValueError: damage, or more pixels than ``MOST_PIXELS``.
    """
    image = open_picture(path, file)
    if image is None:
        return None
    with damage_is_named(path):
        image.verify()  # checksums, after which Pillow wants the file opened again
        return as_shown(_opened(file))


def picture_of(data: bytes, *, most_pixels: int) -> Pixels:
    """The pixels of a picture that somebody sent: jpeg, png or webp, of a bounded size.

    Raises:
        ValueError: it is none of these, moves, is damaged, or its header announces more pixels;
            nothing is decoded then.
    """
    file, what = io.BytesIO(data), "the picture"
    with damage_is_named(what):
        try:
            image = _opened(file, _SENT)
        except Image.UnidentifiedImageError:
            raise ValueError("it is no jpeg, png or webp file") from None
    if image.height * image.width > most_pixels:
        raise ValueError(
            f"{what} has {image.width}x{image.height} pixels, and {most_pixels:,} are the most "
            f"that are taken. Make it smaller."
        )
    with damage_is_named(what):
        frames = image.n_frames if isinstance(image, PngImageFile | WebPImageFile) else 1
    if frames > 1:
        raise ValueError(
            f"{what} moves: it has {frames} frames, and a video begins with one. Send one of them."
        )
    with damage_is_named(what):
        image.verify()  # checksums, after which Pillow wants the file opened again
        return as_shown(_opened(file, _SENT))


def _opened(file: IO[bytes] | io.BytesIO, formats: tuple[str, ...] = _FORMATS) -> Image.Image:
    file.seek(0)
    with warnings.catch_warnings():  # sizes are refused here, and EXIF may be broken
        warnings.simplefilter("ignore")
        return Image.open(file, formats=formats)


def is_pillow(image: Any) -> bool:
    """Whether ``image`` is an image of Pillow."""
    return isinstance(image, Image.Image)


def from_pillow(image: Image.Image) -> Pixels:
    """The pixels of a picture that a caller opened or made, as it is shown.

    Raises:
        ValueError: damage in its file, or more pixels than ``MOST_PIXELS``.
    """
    check_pixels("the image", image.height, image.width)
    with damage_is_named("the image"):
        return as_shown(image)


def as_shown(image: Image.Image) -> Pixels:
    """A picture's pixels, upright, over ``BEHIND``, in eight bits a color."""
    with warnings.catch_warnings():  # a broken EXIF block turns nothing
        warnings.simplefilter("ignore")
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    image = _in_srgb(image)
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        over = Image.new("RGB", image.size, BEHIND)
        over.paste(image, mask=image)
        image = over
    if image.mode != "RGB":
        image = image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):  # not all at once, which takes its memory twice
        below = min(image.height, top + _ROWS)
        pixels[top:below] = np.asarray(image.crop((0, top, image.width, below)))
    return torch.from_numpy(pixels)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colors of the profile that a picture brings, as a screen without one shows them."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    mode = "RGB" if image.mode == "CMYK" else image.mode
    screen = ImageCms.createProfile("sRGB")
    try:
        shown = ImageCms.profileToProfile(image, io.BytesIO(profile), screen, outputMode=mode)
    except ImageCms.PyCMSError:  # a profile that is broken, or of other colors than these
        return image
    assert shown is not None
    return shown


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray in sixteen bits, which Pillow's own conversion would clip at 255."""
    if not image.mode.startswith("I;16") and image.format != "PPM":
        raise ValueError(f"its numbers (mode {image.mode}) have no white")
    values = np.asarray(image).astype(np.uint32)
    eight = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return eight


@contextmanager
def damage_is_named(path: str | Path) -> Iterator[None]:
    """What Pillow raises at a file that is cut or damaged, as a ValueError with its name."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path} has more than {MOST_PIXELS:,} pixels, the most that are read ({error}): each "
            f"takes 16 bytes, and a picture may take {MOST_BYTES / 2**30:g} GiB. Make it smaller."
        ) from error
    except _DAMAGE as error:
        raise ValueError(
            f"{path} cannot be read whole ({error}): it is cut, damaged, or of a kind that is not "
            f"read. Copy it again, or save it as png."
        ) from error
