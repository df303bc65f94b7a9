"""A video being made: blocks of frames in order, decoded beside the next block's denoising."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from longlive_core.async_decode import AsyncDecodeScheduler
from longlive_models.generator import BlockGenerator, LatentBlock
from longlive_models.shots import BlockPrompt, ShotPlan
from longlive_models.vae import StreamState, WanVAE

Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds that a block took.

    Attributes:
        denoise: making its latents: on a GPU what the GPU took, else on the wall clock.
        decode: making frames of them, on the lane; lanes work beside the next block's denoising.
        elapsed: since the stream's first block was asked for, on the wall clock.
    """

    denoise: float
    decode: float
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

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as mp4, gif or png frames, by the path's suffix; returns what was created.

        Raises:
            ValueError: the output exists and ``overwrite`` is not set, or no such file can hold it.
        """
        from longlive_models.video import VideoWriter, destination  # PyAV, which only files need

        output = destination(path)
        if output.exists() and not overwrite:
            raise ValueError(f"{output} exists: pass overwrite=True to replace it.")
        height, width = self.frames.shape[1:3]
        size = (height, width)
        with VideoWriter(path, fps=self.fps, size=size, overwrite=overwrite) as writer:
            writer.write(self.frames)
        return output


class Stream:
    """An iterator of the blocks of a planned video; also a context manager.

    The last block is cut where the plan's frames end. Inline, a block comes out before the next is
    generated; on any other lane, when the next one has been: its decoding ran beside that. An error
    comes after the frames of the blocks before it. The decoding lane is freed when the last block
    is out, or an error, and when a stream that is left early is closed or no longer held::

        with pipe.stream("a red circle spins", seconds=60) as stream:
            for block in stream:
                if enough(block.frames):
                    break
    """

    def __init__(
        self, generator: BlockGenerator, vae: WanVAE, plan: ShotPlan, *, lane: str = "inline"
    ) -> None:
        self.plan = plan
        scheduler = AsyncDecodeScheduler(_decoder(vae), lane=lane, to_host=True)
        self._blocks = _video_blocks(generator, scheduler, plan)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> VideoBlock:
        return next(self._blocks)

    def close(self) -> None:
        """Stop here: the lane ends, and the iterator with it. Frames not taken are lost."""
        self._blocks.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _decoder(vae: WanVAE) -> Callable[[Tensor, StreamState | None], tuple[Frames, StreamState]]:
    """One block's latents to its frames, on the VAE's device and in its type."""

    @torch.no_grad()
    def decode(latents: Tensor, state: StreamState | None) -> tuple[Frames, StreamState]:
        video, state = vae.decode_block(latents.to(vae.conv2.weight.dtype), state)
        return to_frames(video[0]), state

    return decode


def _video_blocks(
    generator: BlockGenerator, scheduler: AsyncDecodeScheduler, plan: ShotPlan
) -> Generator[VideoBlock, None, None]:
    """The blocks of the plan. Outside the class: so a stream that is dropped ends at once."""
    started = time.perf_counter()
    waiting: deque[tuple[LatentBlock, _Stopwatch]] = deque()
    ahead = 0 if scheduler.lane == "inline" else 1
    left = plan.frames

    def release(most: int) -> Iterator[VideoBlock]:
        """Wait for decoded blocks until at most so many are left."""
        nonlocal left
        decoded = scheduler.finish()
        while len(waiting) > most:
            frames = next(decoded)
            block, watch = waiting.popleft()
            span = scheduler.trace[-1]
            timing = Timing(
                denoise=watch.seconds(),
                decode=span.end - span.start,
                elapsed=time.perf_counter() - started,
            )
            yield VideoBlock(block.index, frames[:left], block.prompt, timing)
            left -= min(left, len(frames))

    with scheduler:
        watch = _Stopwatch(generator.cache.device)
        for block in generator.blocks([plan], plan.blocks):
            watch.stop()
            scheduler.submit(block.latents)
            waiting.append((block, watch))
            yield from release(ahead)
            watch = _Stopwatch(generator.cache.device)
        yield from release(0)


class _Stopwatch:
    """Times what is launched between its making and ``stop``; only ``seconds`` waits for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._clock: list[float] = []
        self._mark()

    def stop(self) -> None:
        """Note the end."""
        self._mark()

    def seconds(self) -> float:
        """What lay between: on a GPU by the GPU's clock, else by the wall clock."""
        if self._events:
            self._events[1].synchronize()
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._clock[1] - self._clock[0]

    def _mark(self) -> None:
        if self._device.type == "cuda":
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record(torch.cuda.current_stream(self._device))
        else:
            self._clock.append(time.perf_counter())


def collect(stream: Stream) -> Video:
    """All blocks of a stream, joined."""
    return Video(torch.cat([block.frames for block in stream]), stream.plan.timing.fps)


def to_frames(video: Float[Tensor, "3 frames height width"]) -> Frames:
    """Pixels in [-1, 1], clamped, as bytes with the colours last; on the same device."""
    scaled = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).contiguous()
