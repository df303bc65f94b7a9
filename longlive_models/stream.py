"""A video being made: blocks of frames in order, decoded beside the next block's denoising."""

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longlive_core.async_decode import AsyncDecodeScheduler
from longlive_models.generator import BlockGenerator
from longlive_models.shots import BlockPrompt, ShotPlan
from longlive_models.vae import StreamState, WanVAE

Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds on the wall clock: denoising this block, and since the stream began."""

    denoise: float
    elapsed: float


@dataclass(frozen=True, slots=True, eq=False)
class VideoBlock:
    """The frames of one block.

    Attributes:
        index: which block of the video.
        frames: uint8 [frames, height, width, 3] on the CPU.
        prompt: what the block was asked to show.
        timing: how long it took.
    """

    index: int
    frames: Frames
    prompt: BlockPrompt
    timing: Timing


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """A whole video in memory: uint8 [frames, height, width, 3] at ``fps``."""

    frames: Frames
    fps: float

    def save(self, path: str | Path) -> Path:
        """Write it as mp4, gif or png frames, by the path's suffix; returns the path."""
        from longlive_models.video import VideoWriter  # PyAV, which only files need

        height, width = self.frames.shape[1:3]
        with VideoWriter(Path(path), fps=self.fps, size=(height, width)) as writer:
            writer.write(self.frames)
        return Path(path)


class Stream:
    """An iterator of the blocks of a planned video.

    The last block is cut where the plan's frames end. Leaving the loop early, or calling
    ``close``, frees the decoding lane.
    """

    def __init__(
        self, generator: BlockGenerator, vae: WanVAE, plan: ShotPlan, *, lane: str = "inline"
    ) -> None:
        self.plan = plan
        self._generator = generator
        self._vae = vae
        self._scheduler = AsyncDecodeScheduler(self._decode, lane=lane, to_host=True)
        self._blocks = self._run()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> VideoBlock:
        return next(self._blocks)

    def close(self) -> None:
        """Stop here: the lane ends, and the iterator with it."""
        self._blocks.close()
        self._scheduler.close()

    def _decode(
        self, latents: Float[Tensor, "1 C F Y X"], state: StreamState | None
    ) -> tuple[Frames, StreamState]:
        with torch.no_grad():
            video, state = self._vae.decode_block(latents.to(self._vae.conv2.weight.dtype), state)
            return to_frames(video[0]), state

    def _run(self) -> Generator[VideoBlock, None, None]:
        started = time.perf_counter()
        waiting: list[tuple[int, BlockPrompt, float]] = []
        left = self.plan.frames

        def release(decoded: Iterable[Tensor]) -> Iterator[VideoBlock]:
            nonlocal left
            for frames in decoded:
                index, prompt, denoise = waiting.pop(0)
                timing = Timing(denoise=denoise, elapsed=time.perf_counter() - started)
                yield VideoBlock(index, frames[:left], prompt, timing)
                left -= min(left, len(frames))

        with self._scheduler:
            before = time.perf_counter()
            for block in self._generator.blocks([self.plan], self.plan.blocks):
                waiting.append((block.index, block.prompt, time.perf_counter() - before))
                self._scheduler.submit(block.latents)
                yield from release(self._scheduler.ready())
                before = time.perf_counter()
            yield from release(self._scheduler.finish())


def collect(stream: Stream) -> Video:
    """All blocks of a stream, joined."""
    return Video(torch.cat([block.frames for block in stream]), stream.plan.timing.fps)


def to_frames(video: Float[Tensor, "3 frames height width"]) -> Frames:
    """Pixels in [-1, 1], clamped, as bytes with the colours last; on the same device."""
    scaled = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).contiguous()
