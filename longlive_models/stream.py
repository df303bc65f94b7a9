"""Stream: an iterator of the blocks of a video that is being made.

A block is decoded while the next one is denoised. A stream can be steered while it runs, saved to
a file and resumed, and forked.
"""

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from longlive_core.async_decode import AsyncDecodeScheduler
from longlive_core.checks import shown
from longlive_models.callbacks import OnBlock, OnStep, StepReport, asks_to_stop, require_callable
from longlive_models.finite import Checks, NonFiniteVideo
from longlive_models.generator import BlockGenerator
from longlive_models.prompts.report import NotShown, not_shown, warn_of
from longlive_models.prompts.steering import At, LiveSchedule
from longlive_models.prompts.storyboard import BlockPrompt, ShotPlan
from longlive_models.stream_snapshot import Origin, StreamSnapshot, snapshot_place
from longlive_models.trace import Clock, Laps, Span, spans_of_block
from longlive_models.vae import StreamState, WanVAE
from longlive_models.video.blocks import Timing, decoder, no_frames
from longlive_models.video.blocks import Video as Video
from longlive_models.video.blocks import VideoBlock as VideoBlock
from longlive_models.video.blocks import to_frames as to_frames

MOST_SPANS = 1 << 16
"""How many pieces of work a stream remembers for its trace."""


class Stream:
    """An iterator of the blocks of a video, which may be changed while it is being made.

    The last block is cut to the plan's number of frames. On the lane "inline", a block is handed
    out before the next one is generated; on other lanes, after it: both ran at the same time. An
    error (``NonFiniteVideo`` for latents or frames that are not finite) is raised after the blocks
    before it were handed out. The decoding lane is freed after the last block or an error, and when
    a stream that is left early is closed or garbage collected::

        with pipe.stream("a red circle spins", seconds=60) as stream:
            for block in stream:
                if bored(block.frames):
                    stream.prompt("a blue square bounces")
                if enough(block.frames):
                    break

    ``async for`` works too: blocks are then made on a worker thread, and canceling closes the
    stream. One stream may be used from several threads: a method that needs the state between two
    blocks waits for the block that is being made.

    Args:
        generator: the block generator, at the block where the stream begins.
        vae: the VAE, which decodes.
        schedule: the plan and its events.
        lane: where blocks are decoded (``longlive_core.async_decode``).
        origin: a function that returns the origin to write into snapshots; called when the first
            one is taken.
        state: the decoder's state after the blocks that the generator has made.
        ready: decoded blocks that are handed out first.
        decodes: False for a rank whose blocks another rank decodes: they have no frames.
        reader: the text encoder, which reports what it leaves out of prompts if it is a
            ``PromptReader`` (``longlive_models.prompts.report``).
        on_step, on_block: called after each denoising step, and with each block before it is
            handed out (see ``longlive_models.callbacks``), on the thread that asks for the block.
            If ``on_step`` returns False, the stream ends after the blocks that are made; if
            ``on_block`` does, after this one. An error in them is the stream's error. A fork has
            the same callbacks.
    """

    def __init__(
        self,
        generator: BlockGenerator,
        vae: WanVAE,
        schedule: LiveSchedule,
        *,
        lane: str = "inline",
        origin: Callable[[], Origin],
        state: StreamState | None = None,
        ready: Iterable[VideoBlock] = (),
        decodes: bool = True,
        reader: object = None,
        on_step: OnStep | None = None,
        on_block: OnBlock | None = None,
    ) -> None:
        self._generator = generator
        self._vae = vae
        self._schedule = schedule
        self._lane = lane
        self._origin = origin
        self._first_state = state and state.history  # held until a lane's stream no longer reads it
        self._decodes = decodes
        self._reader = reader
        require_callable("on_step", on_step)
        require_callable("on_block", on_block)
        self._on_step = on_step
        self._on_block = on_block
        self._stopped = self._last = False
        decode = decoder(vae) if decodes else no_frames
        self._scheduler = AsyncDecodeScheduler(decode, lane=lane, state=state)
        self._ahead = 0 if lane == "inline" else 1
        self._decoding: deque[tuple[int, BlockPrompt, Checks, Laps]] = deque()
        self._ready = deque(ready)
        self._clock = Clock(generator.device)
        self._spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._error: Exception | None = None
        self._started: float | None = None
        self._lock = threading.RLock()
        self._end = weakref.finalize(self, self._scheduler.close)

    @property
    def plan(self) -> ShotPlan:
        """The plan of the video, without the events that change it."""
        return self._schedule.plan

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that changed the plan, in the order of blocks, as values that JSON can hold.

        The same plan with ``pipe.stream(..., events=...)`` makes the same video again.
        """
        return [event.to_dict() for event in self._schedule.events]

    @property
    def not_shown(self) -> NotShown:
        """What the video lacks of its plan and events, such as words that the model ignores."""
        plan = self._schedule.plan
        away = self._generator.negative_prompt if self._generator.guidance != 1 else ""
        return not_shown(self._reader, self._schedule.prompts(), plan.left_out, negative=away)

    @property
    def next_block(self) -> int:
        """The first block that can still be changed, which ``at="next"`` means."""
        return self._schedule.begun

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        rows, columns = self._generator.latent_size
        stride = self._vae.config.spatial_stride
        return rows * stride, columns * stride

    @property
    def pages(self) -> tuple[int, ...]:
        """The blocks whose keys and values are held, ascending."""
        return self._generator.cache.pages

    @property
    def trace(self) -> tuple[Span, ...]:
        """What was done when for the blocks handed out (``longlive_models.trace``); the latest."""
        return tuple(self._spans)

    @property
    def shot_start(self) -> int:
        """The block that anchors the shot."""
        return self._generator.cache.shot_start

    def prompt(self, text: str, *, at: At = "next", memory: str = "keep") -> dict[str, Any]:
        """Change the prompt from a block on; returns the event.

        Args:
            text: what to show.
            at: "next", the next block to be denoised, or seconds into the video, rounded to the
                nearest edge of a block.
            memory: "keep" changes the text only; "recache" also encodes the pages that the block
                sees again under the new text; "cut" starts a new shot. See ``SteeringEvent``.

            Warns:
                PromptWarning: the prompt has words that the model does not know or leaves out.

            Raises:
                ValueError: the text is empty, ``memory`` is none of the three, the time is past or
                    beyond the end, or the stream has ended.
        """
        self._require_open("prompt")
        return self._steer(text, at=at, memory=memory)

    def cut(self, text: str, *, at: At = "next", forget: bool = False) -> dict[str, Any]:
        """Start a new shot: ``prompt`` with memory "cut". See ``SteeringEvent`` for ``forget``."""
        self._require_open("cut")
        return self._steer(text, at=at, memory="cut", forget=forget)

    def snapshot(self, path: str | Path, *, notes: Mapping[str, Any] | None = None) -> Path:
        """Save the stream to a file, so that ``pipe.resume(path)`` continues with the next block.

        Blocks that are made and were not handed out yet are in the file as well. An existing file
        is replaced in one step. The first snapshot of a pipeline reads the files of its weights,
        to hash them. ``notes``, values that JSON can hold, are kept in the file
        (``SnapshotSummary``).

        Raises:
            ValueError: the stream has ended, or no file can be written at ``path``.
        """
        path = snapshot_place(path)
        return self.state(notes=notes).save(path)

    def state(self, *, notes: Mapping[str, Any] | None = None) -> StreamSnapshot:
        """What ``snapshot`` writes, on the CPU: another thread may save it while this goes on.

        Raises:
            ValueError: the stream has ended, or ``notes`` are no mapping.
        """
        if notes is not None and not isinstance(notes, Mapping):
            raise ValueError(f"notes are a mapping that JSON can hold, got {shown(notes)}.")
        with self._lock:
            state = self._pause("snapshot")
            return StreamSnapshot(
                origin=self._origin(),
                seed=self._generator.seeds[0],
                plan=self.plan,
                events=tuple(self.events),
                generator=self._generator.snapshot(),
                decoder=state and state.to(torch.device("cpu")),  # the stream spends its own
                ready=tuple(self._ready),
                notes=notes or {},
            )

    def fork(self) -> "Stream":
        """A second stream that continues from here independently: two endings of one video.

        Raises:
            ValueError: the stream has ended.
        """
        with self._lock:
            state = self._pause("fork")
            return Stream(
                self._generator.fork(),
                self._vae,
                self._schedule.fork(),
                lane=self._lane,
                origin=self._origin,
                state=state and state.share(),  # each spends its own
                ready=self._ready,
                decodes=self._decodes,
                reader=self._reader,
                on_step=self._on_step,
                on_block=self._on_block,
            )

    def close(self) -> None:
        """End the stream and its decoding lane. Blocks that were not handed out are lost."""
        with self._lock:
            self._end()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> VideoBlock:
        with self._lock:
            try:
                block = self._next() if self._end.alive and not self._last else None
                if block is not None and self._on_block is not None:
                    self._last = asks_to_stop(self._on_block(block), "on_block")
            except BaseException:
                self.close()
                raise
            if block is None:
                self.close()
                raise StopIteration
            return block

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> VideoBlock:
        try:
            block = await asyncio.to_thread(next, self, None)
        except asyncio.CancelledError:
            await asyncio.to_thread(self.close)
            raise
        if block is None:
            raise StopAsyncIteration
        return block

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _steer(self, text: str, *, at: At, memory: str, forget: bool = False) -> dict[str, Any]:
        event = self._schedule.add(text, at=at, memory=memory, forget=forget)
        if self._decodes:
            cut = event.memory == "cut"
            read = self.plan.prompt(text, shot=0, cut=cut).text
            warn_of(not_shown(self._reader, [(text, read)]), self._reader)
        return event.to_dict()

    def _next(self) -> VideoBlock | None:
        """The next block; generates ahead of it if the lane decodes at the same time."""
        if self._started is None:
            self._started = time.perf_counter()
        while (
            self._error is None
            and not self._stopped
            and len(self._ready) + len(self._decoding) <= self._ahead
            and self._schedule.has(self._generator.cache.blocks)
        ):
            try:
                self._generate()
            except _Stopped:
                self._stopped = True
            except Exception as error:  # raised once the blocks before it are out
                self._error = error
        if self._ready:
            return self._ready.popleft()
        if self._decoding:
            return self._take()
        if self._error is not None:
            raise self._error
        return None

    def _generate(self) -> None:
        laps = Laps(self._clock)
        index = self._generator.cache.blocks
        prompt = self._schedule.begin(index)
        done = partial(self._step_is_done, index, laps)
        block = self._generator.generate(index, [prompt], on_step=done)
        checks = block.checks.to_host()
        laps.mark()
        self._scheduler.submit(block.latents)
        self._decoding.append((index, prompt, checks, laps))

    def _step_is_done(self, block: int, laps: Laps, step: int, latents: Tensor) -> None:
        """Note the step's end and call ``on_step``; raises ``_Stopped`` if it returns False."""
        laps.mark()
        if self._on_step is None:
            return
        schedule, plan = self._generator.sampler.schedule(block), self.plan
        report = StepReport(
            block=block,
            blocks=None if plan.endless else plan.blocks,
            past=plan.past,
            step=step,
            steps=schedule.steps,
            timestep=schedule.timesteps[step],
            sigma=schedule.sigmas[step + 1],
            latents=latents,
        )
        if asks_to_stop(self._on_step(report), "on_step"):
            raise _Stopped

    def _take(self) -> VideoBlock:
        """Wait for the oldest block that is being decoded."""
        decoded = next(self._scheduler.finish())
        index, prompt, checks, laps = self._decoding.popleft()
        span = self._scheduler.trace[-1]
        self._first_state = None
        assert self._started is not None
        timing = Timing(
            denoise=laps.seconds(),
            decode=span.end - span.start,
            elapsed=time.perf_counter() - self._started,
        )
        self._spans += spans_of_block(index, laps, decoded.laps)
        try:  # the clock has waited for the latents' checks, the lane for the frames'
            checks.require(index, {"transformer": self._generator.model})
            decoded.checks.require(index, {"VAE": self._vae})
        except NonFiniteVideo as error:
            self._error = error
            self._decoding.clear()
            raise
        frames = decoded.arrived()[0]
        if not self.plan.endless:
            frames = frames[: self.plan.frames - self.plan.timing.frames(index)]
        return VideoBlock(index, frames, prompt, timing)

    def _pause(self, what: str) -> StreamState | None:
        """Decode all generated blocks into ``_ready``; returns the decoder's state after them."""
        self._require_open(what)
        if self._error is not None:
            raise self._error
        while self._decoding:
            self._ready.append(self._take())
        return self._scheduler.state

    def _require_open(self, what: str) -> None:
        if self._stopped or not self._end.alive:
            raise ValueError(
                f"{what} of a stream that has ended: its state is gone. Call it while blocks are "
                f"coming, before close(), before an error, and before on_step answers False."
            )


class _Stopped(Exception):
    """``on_step`` answered False in the middle of a block."""
