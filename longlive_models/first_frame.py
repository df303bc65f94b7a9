"""Image-to-video: an image is encoded as the first latent frame of a video and kept there.

Frame 0 of block 0 holds the image's latent. Before every step that frame is put back and its
timestep set to 0; so the other frames of the block see the clean image. In training the frame does
not count in the loss.
See LongLive-2.0 (arXiv 2605.18739), image-to-video.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from longlive_core.tensor_checks import dense
from longlive_models.vae import WanVAE


def load_image(image: Any) -> UInt8[Tensor, "height width 3"]:
    """Load an image as uint8 [height, width, 3] on the CPU.

    ``image`` is a file, a Pillow image, or a tensor or array of that shape and type.

    A file and a Pillow image come as a viewer shows them: upright, over white where they are
    transparent (see ``longlive_models.video.picture``).

    Raises:
        ValueError: it is none of these, a video or an animation, has another shape or type, is
            damaged, or has more pixels than ``picture.MOST_PIXELS``.
    """
    from longlive_models.video.picture import (  # what files need
        check_pixels,
        from_pillow,
        is_pillow,
    )
    from longlive_models.video.stills import read_still

    if isinstance(image, str | os.PathLike):
        return read_still(Path(image))
    if is_pillow(image):
        return from_pillow(image)
    try:
        device = image.device if isinstance(image, Tensor) else "cpu"
        # of arrays a copy: torch takes neither a flipped one nor one that is only to be read
        plain = image.copy() if isinstance(image, np.ndarray) else image
        pixels = torch.as_tensor(plain, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"an image is a file or an array of bytes, got {type(image).__name__} ({error}): a "
            f"video starts from its pixels. Pass a path, or np.asarray(image.convert('RGB')); what "
            f"a video goes on from is video=."
        ) from error
    bytes_in_place = pixels.dtype == torch.uint8 and pixels.layout == torch.strided
    if pixels.is_meta or not bytes_in_place or pixels.shape[2:] != (3,) or pixels.numel() == 0:
        raise ValueError(
            f"an image is uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)} "
            f"({'meta' if pixels.is_meta else str(pixels.layout)}): its colors come last, as "
            f"bytes. Convert it, for example with image.convert('RGB'); frames of a clip, that a "
            f"video goes on from, are video=."
        )
    check_pixels("the image", *pixels.shape[:2])
    return pixels.cpu()


@torch.no_grad()
def encode_image(
    image: Any, vae: WanVAE, height: int, width: int
) -> Float[Tensor, "1 channels 1 rows columns"]:
    """Crop an image to a video's size and encode it as one latent frame, on the VAE's device.

    Raises:
        ValueError: see ``load_image``.
    """
    pixels = image_to_pixels(load_image(image), height, width)
    weight = vae.conv1.weight
    return vae.encode(pixels.to(weight.device, weight.dtype))


def image_to_pixels(
    image: UInt8[Tensor, "height width 3"],
    height: int,
    width: int,
    *,
    fit: Literal["crop", "stretch"] = "crop",
) -> Float[Tensor, "1 3 1 new_height new_width"]:
    """Resize an image to a video of one frame in [-1, 1], ``height`` by ``width``, ready to encode.

    ``crop`` keeps the image's proportions and loses its margins; ``stretch`` keeps all of it, as
    the original does. Resized with antialiasing.
    """
    dense("an image", image, why="it is uint8 [height, width, 3], as load_image gives it.")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.is_complex():
        raise ValueError(
            f"an image is [height, width, 3], got {image.dtype} {list(image.shape)}: colors "
            f"come last. Load it with load_image."
        )
    if fit == "crop":
        rows, columns = image.shape[:2]
        kept_rows = min(rows, max(1, round(columns * height / width)))
        kept_columns = min(columns, max(1, round(rows * width / height)))
        top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
        image = image[top : top + kept_rows, left : left + kept_columns]
    pixels = image.permute(2, 0, 1)[None].float().div_(127.5).sub_(1)  # in place: it may be large
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return resized.clamp(-1, 1)[:, :, None]


def pin_first_frame(
    latents: Float[Tensor, "batch channels frames rows columns"],
    image: Float[Tensor, "batch channels 1 rows columns"],
) -> Float[Tensor, "batch channels frames rows columns"]:
    """``latents`` with ``image`` as their frame 0; a new tensor."""
    return torch.cat([image.to(latents), latents[:, :, 1:]], dim=2)


def clean_first_frame(timesteps: Float[Tensor, "batch frames"]) -> Float[Tensor, "batch frames"]:
    """``timesteps`` with 0 for frame 0, which is clean; a new tensor."""
    return timesteps * _after_first(timesteps)


def first_frame_loss_mask(
    timesteps: Float[Tensor, "batch frames"],
) -> Float[Tensor, "batch frames"]:
    """A mask that is 0 for the given frame 0 and 1 for all others; shaped like ``timesteps``."""
    return _after_first(timesteps).expand_as(timesteps)


def _after_first(timesteps: Float[Tensor, "batch frames"]) -> Float[Tensor, " frames"]:
    frames = torch.arange(timesteps.shape[1], dtype=torch.int64, device=timesteps.device)
    return (frames > 0).to(timesteps.dtype)
