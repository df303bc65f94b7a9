"""The results of generation: blocks of frames, their timing, and whole videos."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longlive_core.async_decode import HostCopy, HostRing
from longlive_core.checks import shown
from longlive_models.finite import (
    LARGEST_VALUE,
    LARGEST_WEIGHT,
    Check,
    Checks,
    sound,
    sound_weights,
)
from longlive_models.prompts.storyboard import BlockPrompt
from longlive_models.timing import check_fps
from longlive_models.trace import Clock, Laps
from longlive_models.vae import StreamState, WanVAE

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Frames = UInt8[Tensor, "frames height width 3"]

IN_FLIGHT = 3
"""Blocks whose frames are on their way to the CPU at a time: two that are decoded, one taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a block took, in seconds.

    Attributes:
        denoise: for its latents; the GPU's time on a GPU, else by the wall clock.
        decode: for its frames, on the lane, which may work while the next block is denoised.
        elapsed: since the stream's first block was asked for, by the wall clock.
    """

    denoise: float
    decode: float
    elapsed: float


@dataclass(frozen=True, slots=True, eq=False)
class VideoBlock:
    """The frames of one block.

    Attributes:
        index: the block's number in the video, from 0.
        frames: uint8 [frames, height, width, 3] on the CPU.
        prompt: the block's prompt.
        timing: how long it took.
    """

    index: int
    frames: Frames
    prompt: BlockPrompt
    timing: Timing


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Video:
    """A whole video in memory. A notebook shows it as a player.

    Attributes:
        frames: uint8 [frames, height, width, 3] on the CPU.
        fps: frames a second.
        unknown_words: words of its prompts that the model does not know, and so does not show.

        Raises:
            ValueError: frames of another shape or type, or a rate that is not above 0.
    """

    frames: Frames
    fps: float
    unknown_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        frames = self.frames
        if not (
            isinstance(frames, Tensor)
            and frames.dtype == torch.uint8
            and frames.ndim == 4
            and frames.shape[3] == 3
        ):
            tensor = isinstance(frames, Tensor)
            got = f"{frames.dtype} {list(frames.shape)}" if tensor else shown(frames)
            raise ValueError(
                f"a video's frames are a uint8 tensor [frames, height, width, 3], got {got}: "
                f"colors come last, from 0 to 255. to_frames of longlive_models.stream makes "
                f"them of pixels in [-1, 1]."
            )
        why = "it is how many frames are shown in a second. Use, say, 12."
        object.__setattr__(self, "fps", check_fps("fps", self.fps, why=why))

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.frames)

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        return f"Video({count} frames of {width}x{height} at {self.fps:g} a second)"

    def _repr_html_(self) -> str:
        """A player with the video in it, for notebooks."""
        from longlive_models.video.html import video_tag  # PyAV, which only files need

        return video_tag(self.frames, self.fps)

    def numpy(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """The frames as a NumPy array, uint8 [frames, height, width, 3], in the same memory."""
        return self.frames.cpu().numpy()

    def pil(self) -> "list[Image]":
        """The frames as images of Pillow."""
        from PIL import Image

        return [Image.fromarray(frame) for frame in self.numpy()]

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        crf: int | None = None,
        fps: float | None = None,
    ) -> Path:
        """Write it as mp4, gif or png frames, by the path's suffix; returns what was created.

        Args:
            path: its folder is made where it is missing.
            overwrite: replace what is there.
            crf: quality of an mp4, from 0, the best, to 51; 16 unless given.
            fps: play the same frames at another rate.

        Raises:
            ValueError: the output exists and ``overwrite`` is not set, no such file can hold it,
                or the video has no frames.
        """
        from longlive_models.video.files import (  # PyAV, which only files need
            VideoWriter,
            destination,
        )

        output = destination(path)
        if output.exists() and not overwrite:
            raise ValueError(f"{output} exists: pass overwrite=True to replace it.")
        if not len(self):
            raise ValueError(
                f"{output} cannot be written: the video has no frames, as it was stopped before "
                f"its first block."
            )
        height, width = self.frames.shape[1:3]
        writer = VideoWriter(
            path,
            fps=self.fps if fps is None else fps,
            size=(height, width),
            overwrite=overwrite,
            crf=crf,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        with writer:
            writer.write(self.frames)
        return output


class Decoded(NamedTuple):
    """The frames of a block of each video of a batch, with checks of their pixels.

    ``frames`` may be on their way to the CPU. ``laps`` are when decoding began and ended, and when
    the frames were on the CPU.
    """

    frames: UInt8[Tensor, "videos frames height width 3"] | HostCopy
    checks: Checks
    laps: Laps | None = None

    def arrived(self) -> UInt8[Tensor, "videos frames height width 3"]:
        """The frames; waits for those that are on their way."""
        return self.frames.take() if isinstance(self.frames, HostCopy) else self.frames


def to_frames(video: Float[Tensor, "3 frames height width"]) -> Frames:
    """Pixels in [-1, 1], clamped, as bytes with the colors last; on the same device.

    Raises:
        ValueError: a pixel is NaN, infinite or far from any color. On a GPU this waits for it.
    """
    if not sound(video):
        raise ValueError(
            f"pixels are numbers in [-1, 1], but some of this video of shape {list(video.shape)} "
            f"are NaN, infinite or above {LARGEST_VALUE:.0f}: as bytes they would be black or "
            f"noise. Look for NaN in the VAE's weights or in the latents."
        )
    return _as_bytes(video[None])[0]


def decoder(
    vae: WanVAE, *, to_host: bool = True
) -> Callable[[Tensor, StreamState | None], tuple[Decoded, StreamState]]:
    """Make the function that decodes a block's latents, on the VAE's device and in its type.

    The state that it is given is spent: nothing can go on from it a second time. With ``to_host``
    it starts copying frames and checks to the CPU, the frames through a ring of pinned memory; wait
    for the CUDA stream before reading the checks.
    """
    weights_checked = False
    device = vae.conv2.weight.device
    clock, ring = Clock(device), HostRing(IN_FLIGHT, device)

    @torch.no_grad()
    def decode(latents: Tensor, state: StreamState | None) -> tuple[Decoded, StreamState]:
        nonlocal weights_checked
        laps = Laps(clock)
        video, state = vae.decode_block(latents.to(vae.conv2.weight.dtype), state, spend=True)
        answers = {Check("the frames"): sound(video)}
        if not weights_checked:
            weights_checked = True
            answers[Check("weights of the VAE", largest=LARGEST_WEIGHT)] = sound_weights(vae)
        frames, checks = _as_bytes(video), Checks.join(answers)
        laps.mark()
        if not to_host or device.type != "cuda":
            laps.mark()
            return Decoded(frames, checks, laps), state
        decoded = Decoded(ring.start(frames), checks.to_host(), laps)
        laps.mark()
        return decoded, state

    return decode


def no_frames(latents: Tensor, state: StreamState | None) -> tuple[Decoded, StreamState | None]:
    """The decoder of a rank whose blocks another rank decodes: it returns no frames."""
    videos, _, _, *size = latents.shape
    frames = torch.empty(videos, 0, *size, 3, dtype=torch.uint8, device="cpu")
    return Decoded(frames, Checks.none()), state


def _as_bytes(
    video: Float[Tensor, "videos 3 frames height width"],
) -> UInt8[Tensor, "videos frames height width 3"]:
    scaled = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 4, 1).contiguous()
