"""A clip that a video goes on from: its last blocks become the past of the first new one.

Each block of the clip is encoded, and one clean pass over its latents writes its keys and values,
as if the model had made it. See LongLive-2.0 (arXiv 2605.18739), autoregressive inference.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longlive_core.checks import shown
from longlive_core.kv_cache import WindowPolicy
from longlive_models.first_frame import image_to_pixels
from longlive_models.latent_block import Latents
from longlive_models.timing import BlockTiming
from longlive_models.vae import StreamState, WanVAE
from longlive_models.video.blocks import Video

if TYPE_CHECKING:
    from longlive_models.video.timed import TimedFrame


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip by the times of its frames.

    Attributes:
        name: what messages call it.
        seconds: how long it lasts.
        timed: makes an iterator of its frames, in order.
    """

    name: str
    seconds: float
    timed: "Callable[[], Iterable[TimedFrame]]"

    @classmethod
    def open(cls, video: Any, fps: float) -> "Clip":
        """The clip in a file, in a ``Video``, or in bytes [frames, height, width, 3].

        ``fps`` is the rate of what names none: bytes, and a folder of frames. Frames of a file are
        not decoded before they are asked for, except those of a moving picture or a folder.

        Raises:
            ValueError: it is none of these, or a file that is not there or holds no video.
        """
        from longlive_models.video.picture import open_file, open_picture  # what files need
        from longlive_models.video.reader import read_video
        from longlive_models.video.stills import shows_several
        from longlive_models.video.timed import timed_frames, video_facts

        if isinstance(video, Video):
            return cls.of_frames("the video", video.frames, video.fps)
        if not isinstance(video, str | os.PathLike):
            return cls.of_frames("the video", _bytes(video), fps)
        path = Path(video)
        if path.is_dir():
            return cls.of_frames(str(path), *read_video(path, fps=fps))
        with open_file(path, "a video") as file:
            picture = open_picture(path, file) is not None
        if picture:
            if not shows_several(path):
                raise ValueError(
                    f"{path} is a picture, and a video goes on from a clip, which has many frames. "
                    f"Name a video; a picture that it begins with is named with image (--image)."
                )
            return cls.of_frames(str(path), *read_video(path))
        return cls(str(path), video_facts(path).seconds, partial(timed_frames, path))

    @classmethod
    def of_frames(cls, name: str, frames: Tensor, fps: float) -> "Clip":
        """The clip of frames in memory, uint8 [frames, height, width, 3], ``fps`` a second."""
        from longlive_models.video.timed import TimedFrame

        def timed() -> "Iterator[TimedFrame]":
            for place, frame in enumerate(frames):
                yield TimedFrame(place / fps, (place + 1) / fps, frame.cpu)

        return cls(name, len(frames) / fps, timed)

    def blocks(self, timing: BlockTiming, policy: WindowPolicy) -> int:
        """How many of its last blocks a video goes on from: as many as a block sees before itself.

        Raises:
            ValueError: it is shorter than a block.
        """
        from longlive_models.video.timed import sampled

        frames = sampled(self.seconds, timing.fps)
        most = max(1, policy.capacity - 1)
        whole = [count for count in range(1, most + 1) if timing.frames(count) <= frames]
        if not whole:
            raise ValueError(
                f"{self.name} lasts {self.seconds:.3g} s, which is {frames} frames at the model's "
                f"{timing.fps:g} a second: a video goes on from whole blocks, and the first has "
                f"{timing.frames(1)} frames ({timing.seconds(1):.3g} s). Name a longer clip, or "
                f"start from a picture with image (--image)."
            )
        return whole[-1]

    def last(self, count: int, timing: BlockTiming) -> "list[list[TimedFrame]]":
        """The frames of its last ``count`` blocks at the model's rate, block by block.

        Of a faster clip frames are left out, of a slower one they come again. They are decoded, and
        converted to pixels by ``show``.
        """
        from longlive_models.video.timed import resample

        held = (replace(frame, show=partial(_same, frame)) for frame in self.timed())
        sampled: Iterator[tuple[int, Any]] = resample(held, [(0.0, None)], timing.fps)
        frames = [frame for _, frame in deque(sampled, maxlen=timing.frames(count))]
        missing = timing.frames(count) - len(frames)
        if missing > 0:
            raise ValueError(
                f"{self.name} ends {missing} frames before its header says: the video goes on "
                f"from what can be read. Copy it again, or cut it where it is whole."
            )
        edges = [timing.frames(block) for block in range(count + 1)]
        return [frames[edges[block] : edges[block + 1]] for block in range(count)]


@torch.no_grad()
def encode_blocks(
    blocks: "Iterable[list[TimedFrame]]", vae: WanVAE, height: int, width: int
) -> Iterator[Latents]:
    """Encode a clip block by block, cropped to a video's size; yields the latents of each block.

    They are [1, channels, frames, rows, columns], normalized, on the VAE's device.
    """
    state: StreamState | None = None
    weight = vae.conv1.weight
    for frames in blocks:
        pixels = [image_to_pixels(frame.show(), height, width) for frame in frames]
        video = torch.cat(pixels, 2).to(weight.device, weight.dtype)
        latents, state = vae.encode_block(video, state)
        yield latents


def _same(frame: Any) -> Any:
    return frame


def _bytes(video: Any) -> Tensor:
    """Frames as a tensor. Raises ValueError unless they are uint8 [frames, height, width, 3]."""
    try:
        frames = torch.as_tensor(video, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        frames = None
    if frames is None or frames.dtype != torch.uint8 or frames.shape[3:] != (3,):
        got = shown(video) if frames is None else f"{frames.dtype} {list(frames.shape)}"
        raise ValueError(
            f"a clip is a file, a Video, or uint8 [frames, height, width, 3], got {got}: its last "
            f"blocks are what the new video goes on from. Pass a path; one picture that a video "
            f"begins with is image=."
        )
    return frames
