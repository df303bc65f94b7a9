"""One configuration at work: its window filled and compared, its blocks and its decoding timed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longlive_models import LongLivePipeline
from longlive_models.generator import BlockGenerator
from longlive_models.prompts.storyboard import BlockPrompt
from longlive_models.trace import Clock, Laps
from longlive_models.video.blocks import decoder
from longlive_recipes.bench.generation import PROMPT
from longlive_recipes.bench.preset.models import nbytes
from longlive_recipes.bench.preset.variants import Variant

SEED = 7
BLOCK_PROMPT = BlockPrompt(text=PROMPT, shot=0, cut=False, offset=0.0)


class Meter:
    """What a GPU holds, as torch's allocator counts it; zeros on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def held(self) -> int:
        """Bytes in use now."""
        return torch.cuda.memory_allocated(self.device) if self._counts else 0

    @property
    def peak(self) -> int:
        """The most bytes in use since ``reset``."""
        return torch.cuda.max_memory_allocated(self.device) if self._counts else 0

    def reset(self) -> None:
        """Forget the peak."""
        if self._counts:
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def _counts(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of a block: of each step, and of the clean pass that follows them."""

    steps: tuple[float, ...]
    clean: float

    @property
    def seconds(self) -> float:
        """Of the whole block."""
        return sum(self.steps) + self.clean


@dataclass
class Case:
    """A variant with its pipeline, which others may share.

    Attributes:
        fills: times of the blocks that filled its window.
        latents: those blocks' latents, on the CPU.
        blocks: times of blocks over a full window.
        first_decode, decodes: seconds of decoding the first block, and later ones.
        own: bytes of its own cache.
        peaks: the most bytes in use while "denoising" and "decoding", without what others hold.
    """

    variant: Variant
    pipe: LongLivePipeline
    pipe_bytes: int
    fills: list[BlockTimes] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    blocks: list[BlockTimes] = field(default_factory=list)
    first_decode: float = 0.0
    decodes: list[float] = field(default_factory=list)
    own: int = 0
    peaks: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.meter = Meter(self.pipe.runtime.device)
        self.clock = Clock(self.pipe.runtime.device)
        self.settings = self.pipe.settings.override(steps=self.variant.steps)
        self._generator: BlockGenerator | None = None
        self._decode = decoder(self.pipe.vae)
        self._state: Any = None
        self._last: Tensor | None = None

    def fill(self, blocks: int) -> None:
        """Make the first blocks, keep their latents, and time them: the first one is cold."""
        before = self.meter.held
        self._generator = self.pipe.generator([SEED], self.settings)
        self.own = self.meter.held - before
        self.meter.reset()
        others = self.meter.held - self.own - self.pipe_bytes
        for index in range(blocks):
            latents, times = self._make(index)
            self.fills.append(times)
            self.latents.append(latents.cpu())
        self.peaks["denoising"] = self.meter.peak - others

    def adopt(self, other: "Case") -> None:
        """Go on from another case's window, which is full."""
        self._generator = other._generator

    def block(self) -> None:
        """Make and time the next block."""
        assert self._generator is not None, "the window is filled first"
        latents, times = self._make(self._generator.cache.blocks)
        self._last = latents
        self.blocks.append(times)

    def decode_first(self) -> None:
        """Decode the first block, cold."""
        self.first_decode = self._decoded(self.latents[0])

    def decode(self) -> None:
        """Decode a later block, and time it."""
        latents = self.latents[-1] if self._last is None else self._last
        self.decodes.append(self._decoded(latents))

    def release(self) -> None:
        """Let go of the cache and the decoder's past; a stream has its own."""
        self._generator, self._state, self._last = None, None, None

    def parts(self) -> dict[str, int]:
        """Bytes of the weights and of the cache."""
        layout, policy = self.pipe.spec.cache_layout(self.settings.branches), self.settings.policy
        codec = self.pipe.runtime.codec()
        windows = self.pipe.runtime.reads_windows(layout.head_dim)
        return {
            "transformer": nbytes(self.pipe.transformer),
            "vae": nbytes(self.pipe.vae),
            "text_encoder": nbytes(self.pipe.text),
            "cache": layout.bytes(codec, policy.capacity, windows=windows).total,
        }

    def _make(self, index: int) -> tuple[Tensor, BlockTimes]:
        assert self._generator is not None
        laps = Laps(self.clock)

        def step_done(step: int, latents: Tensor) -> None:
            laps.mark()

        made = self._generator.generate(index, [BLOCK_PROMPT], on_step=step_done)
        laps.mark()
        times = laps.times()
        took = [end - begin for begin, end in zip(times[:-1], times[1:], strict=True)]
        return made.latents, BlockTimes(tuple(took[:-1]), took[-1])

    def _decoded(self, latents: Tensor) -> float:
        device = self.pipe.runtime.decode_device
        latents = latents.to(device)
        meter = Meter(device)
        finish(device)
        meter.reset()
        others = meter.held - self.own - self.pipe_bytes
        began = time.perf_counter()
        decoded, self._state = self._decode(latents, self._state)
        decoded.arrived()
        finish(device)
        seconds = time.perf_counter() - began
        if device == self.pipe.runtime.device:
            self.peaks["decoding"] = max(self.peaks.get("decoding", 0), meter.peak - others)
        return seconds


@dataclass(frozen=True)
class StreamTimes:
    """A video of a stream.

    Attributes:
        first: seconds to the first block's frames.
        intervals: seconds between later blocks, the window full.
        frames: of a block.
        peak: the most bytes in use, without what others hold.
    """

    first: float
    intervals: tuple[float, ...]
    frames: int
    peak: int


def stream(case: Case, blocks: int) -> StreamTimes:
    """Make a video of so many blocks over a full window, decoding while denoising.

    One block more is made: while it is decoded nothing is denoised, so it is not timed.
    """
    pipe, window = case.pipe, case.settings.window
    seconds = pipe.timing.seconds(window + blocks + 1)
    case.meter.reset()
    others = case.meter.held - case.pipe_bytes
    finish(pipe.runtime.device)
    began = time.perf_counter()
    arrived: list[float] = []
    frames = 0
    with pipe.stream(PROMPT, seconds=seconds, seed=SEED, steps=case.variant.steps) as made:
        for block in made:
            arrived.append(time.perf_counter() - began)
            frames = len(block.frames)
    steady = arrived[window - 1 : -1]
    intervals = tuple(end - begin for begin, end in zip(steady[:-1], steady[1:], strict=True))
    return StreamTimes(arrived[0], intervals, frames, case.meter.peak - others)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between the two nearest ones."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
