"""Pictures come as a viewer shows them, and damaged or oversized ones do not come at all."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from longlive_models.first_frame import image_to_pixels, load_image
from longlive_models.video.files import read_image, read_video
from longlive_models.video.picture import BEHIND, MOST_BYTES, MOST_PIXELS
from tests.models.resident import peak

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 40), (20, 40, 210), (120, 120, 120)


def scene(height: int = 32, width: int = 48) -> np.ndarray:
    """Four quarters of four colors: no turn or mirror image of it is the same."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, GREY
    return pixels


STORED = {  # what is stored so that the scene is shown, by the table of the EXIF specification:
    1: lambda shown: shown,  # row 0 is the top, column 0 the left
    2: lambda shown: shown[:, ::-1],  # top, right
    3: lambda shown: shown[::-1, ::-1],  # bottom, right
    4: lambda shown: shown[::-1],  # bottom, left
    5: lambda shown: shown.transpose(1, 0, 2),  # row 0 is the left, column 0 the top
    6: lambda shown: shown[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda shown: shown[::-1].transpose(1, 0, 2),  # left, bottom
}


def off(got: torch.Tensor, want: np.ndarray) -> float:
    assert got.dtype == torch.uint8 and tuple(got.shape) == want.shape
    return float((got.int() - torch.from_numpy(want.copy()).int()).abs().float().mean())


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_a_picture_is_turned_as_its_exif_says(suffix, orientation, tmp_path):
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](scene()))).save(path, exif=exif)
    for picture in (read_image(path), load_image(str(path)), read_video(path)[0][0]):
        assert off(picture, scene()) < 6
    with Image.open(path) as opened:
        assert off(load_image(opened), scene()) < 6


def test_a_broken_exif_block_turns_nothing(tmp_path):
    path = tmp_path / "broken.jpg"
    for block in (b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"):
        Image.fromarray(scene()).save(path, exif=block)
        assert off(read_image(path), scene()) < 6


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return (pixels * share + np.array(BEHIND) * (1 - share)).round().astype(np.uint8)


def see_through(height: int = 32, width: int = 48) -> np.ndarray:
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_what_is_transparent_is_over_white(suffix, tmp_path):
    path = tmp_path / f"clear{suffix}"
    pixels, alpha = scene(), see_through()
    how = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(np.dstack([pixels, alpha])).save(path, **how)
    want = over_white(pixels, alpha)
    assert torch.tensor(want[:, 0]).eq(torch.tensor(BEHIND)).all()  # hidden colors stay hidden
    assert off(read_image(path), want) < 1 and off(read_video(path)[0][0], want) < 1
    grey = np.dstack([pixels[..., 0], alpha])
    Image.fromarray(grey).save(path, **how)
    assert off(read_image(path), over_white(pixels[..., [0, 0, 0]], alpha)) < 1


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_entry_of_a_palette_is_white(suffix, tmp_path):
    path = tmp_path / f"palette{suffix}"
    indexes = Image.fromarray((scene()[..., 0] == RED[0]).astype(np.uint8), mode="P")
    indexes.putpalette([*BLUE, *RED])
    indexes.save(path, transparency=0)
    want = np.where((scene()[..., :1] == RED[0]), np.array(RED), np.array(BEHIND))
    assert off(read_image(path), want.astype(np.uint8)) == 0
    assert off(read_video(path)[0][0], want.astype(np.uint8)) == 0


def test_a_color_that_stands_for_transparency_is_white(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "key.png", transparency=BLUE)
    want = np.where((scene() == BLUE).all(-1, keepdims=True), np.array(BEHIND), scene())
    assert off(read_image(tmp_path / "key.png"), want.astype(np.uint8)) == 0


def png(path: Path, kind: int, depth: int, pixels: np.ndarray, *more: tuple[bytes, bytes]) -> Path:
    """A png as the specification has it, of the kinds that Pillow does not write."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else np.uint8).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_sixteen_bits_become_eight(tmp_path):
    fine = np.linspace(0, 65535, 32 * 48).reshape(32, 48).round()
    grey = (fine / 257).round().astype(np.uint8)
    colors, three = np.dstack([fine, fine.T.reshape(32, 48), 65535 - fine]), [0, 0, 0]
    assert off(read_image(png(tmp_path / "a.png", 0, 16, fine)), grey[..., None][..., three]) == 0
    want = (colors / 257).round().astype(np.uint8)
    assert off(read_image(png(tmp_path / "b.png", 2, 16, colors)), want) < 1
    alpha = see_through()
    both = np.dstack([fine, alpha.astype(np.float64) * 257])
    want = over_white(grey[..., None][..., three], alpha)
    assert off(read_image(png(tmp_path / "c.png", 4, 16, both)), want) < 1
    four = np.dstack([colors, alpha.astype(np.float64) * 257])
    want = over_white((colors / 257).round(), alpha)
    assert off(read_image(png(tmp_path / "d.png", 6, 16, four)), want) < 1
    value = int(fine[3, 5])
    keyed = read_image(png(tmp_path / "e.png", 0, 16, fine, (b"tRNS", struct.pack(">H", value))))
    assert keyed[3, 5].tolist() == list(BEHIND)
    assert (keyed[3, 4].int() - int(grey[3, 4])).abs().max() == 0


def test_other_colors_become_red_green_and_blue(tmp_path):
    pixels = scene()
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "ink.jpg", quality=95)
    assert off(read_image(tmp_path / "ink.jpg"), pixels) < 6
    Image.fromarray(pixels[..., 0] > 100).save(tmp_path / "bits.png")
    assert sorted(read_image(tmp_path / "bits.png").unique().tolist()) == [0, 255]
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    assert off(read_image(tmp_path / "grey.jpg"), pixels[..., [0, 0, 0]]) < 6


def test_colors_are_those_of_the_profile_that_a_picture_brings(tmp_path):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    plain = bytes(profile)
    red, green = (profile.index(name) + 4 for name in (b"rXYZ", b"gXYZ"))  # in its table of tags
    profile[red : red + 8], profile[green : green + 8] = (
        profile[green : green + 8],
        profile[red : red + 8],
    )
    path, alpha = tmp_path / "a.png", see_through()
    for pixels in (scene(), np.dstack([scene(), alpha])):
        for icc, want in ((plain, scene()), (bytes(profile), scene()[..., [1, 0, 2]])):
            Image.fromarray(pixels).save(path, icc_profile=icc)
            want = over_white(want, alpha) if pixels.shape[2] == 4 else want
            assert off(read_image(path), want) < 1
    Image.fromarray(scene()).save(path, icc_profile=b"no profile")
    assert off(read_image(path), scene()) == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".avif"])
def test_a_picture_that_is_cut_is_refused_wherever_it_is(suffix, tmp_path):
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((96, 64)).save(whole)
    data = whole.read_bytes()
    assert tuple(read_image(whole).shape) == (64, 96, 3)
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        part.write_bytes(data[: int(len(data) * share)])
        for reader in (read_image, load_image, read_video):
            with pytest.raises(ValueError, match=f"part{suffix} cannot be read"):
                reader(part)


def test_a_progressive_jpg_that_is_cut_is_refused(tmp_path):
    path = tmp_path / "slow.jpg"
    Image.fromarray(scene()).resize((96, 64)).save(path, progressive=True)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"slow\.jpg cannot be read whole"):
        read_image(path)


def test_a_png_with_other_bytes_than_its_checksums_say_is_refused(tmp_path):
    path = png(tmp_path / "a.png", 2, 8, scene(), (b"tEXt", b"Title\0four quarters"))
    data = bytearray(path.read_bytes())
    data[data.index(b"four")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        read_image(path)


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2, 40_000_000)])
def test_too_many_pixels_are_refused_from_the_header(size, tmp_path):
    height, width = size
    path = png(tmp_path / "bomb.png", 2, 8, scene())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    for reader in (read_image, load_image, read_video):
        with pytest.raises(ValueError, match=rf"bomb\.png .*{MOST_PIXELS:,}.*16 bytes.*1 GiB"):
            reader(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_takes_no_more_memory_than_the_bound_says(suffix, tmp_path):
    path = tmp_path / f"large{suffix}"
    image = Image.new("RGBA" if suffix == ".png" else "RGB", (4096, 4096), (10, 200, 30))
    image.save(path, compress_level=1)
    del image

    def work() -> torch.Tensor:
        return image_to_pixels(load_image(path), 64, 64)

    assert peak(work) < 4096 * 4096 * MOST_BYTES / MOST_PIXELS + 40e6  # and what is loaded once


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.png").write_text("no picture at all")
    with pytest.raises(ValueError, match=r"none\.png cannot be read as an image: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"empty\.png .*it is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read as"):
        read_image(tmp_path / "notes.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match="no regular file"):
        read_image("/dev/zero")


@pytest.mark.parametrize("name", ["a:b.png", "data:x.png", "-i.png", "%05d.png", "subfile,,:.png"])
def test_a_name_is_a_path_whatever_it_looks_like(name, tmp_path, monkeypatch):
    Image.fromarray(scene()).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for reader in (read_image, load_image, lambda path: read_video(path)[0][0]):
        assert off(reader(name), scene()) == 0
    (tmp_path / name).rename(tmp_path / "00000.png")
    with pytest.raises(ValueError, match="No such file"):
        read_image(name)


@pytest.mark.parametrize("address", ["concat:{}", "subfile,,start,0,end,9999,,:{}", "file:{}"])
def test_an_address_is_no_file(address, tmp_path, monkeypatch):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for reader in (read_image, load_image, read_video):
        with pytest.raises(ValueError, match="No such file"):
            reader(address.format("a.png"))


def test_arrays_in_any_order_of_their_bytes_are_pictures():
    pixels = scene()
    locked = pixels.copy()
    locked.flags.writeable = False
    for view in (pixels[::-1], pixels[:, ::-1], pixels[..., ::-1], np.asfortranarray(pixels)):
        assert off(load_image(view), view) == 0
    assert off(load_image(locked), pixels) == 0
    assert off(load_image(torch.from_numpy(pixels).transpose(0, 1)), pixels.transpose(1, 0, 2)) == 0
    assert off(load_image(Image.fromarray(np.dstack([pixels, see_through()]))), pixels) > 3


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), ">u2"),
        np.zeros((4, 4, 3), bool),
        np.array([None]),
        np.array("a.png"),
        torch.zeros(4, 4, 3),
        torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"),
        torch.zeros(4, 4, 3, dtype=torch.uint8).to_sparse(),
        torch.zeros(1, 1, 1, dtype=torch.uint8).expand(10_000, 10_000, 3),
        [[1], [1, 2]],
        b"bytes",
        None,
        3,
    ],
)
def test_what_is_no_picture_is_refused_in_words(image):
    with pytest.raises(ValueError, match=r"an image is|the image has 10000x10000 pixels"):
        load_image(image)
