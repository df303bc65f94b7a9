"""Where decoding runs: on the caller's thread, a worker thread, a second stream, another device.

A lane runs tasks one after another in the order given. It knows nothing of blocks or states: a task
is a function of one tensor, and a ``Ticket`` is what one can ask about it.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor

from longlive_core.checks import shown
from longlive_core.tensor_checks import place

LaneTask = Callable[[Tensor], Any]
"""What a lane runs: a function of latents, on their device; its value is what it returns."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a task.

    Attributes:
        value: what it returned; None if it failed.
        error: what it raised; None if it did not.
        start, end: when it ran, in seconds of ``time.perf_counter``; on a GPU when its kernels
            ran, which may be long after they were launched.
    """

    value: Any
    error: BaseException | None
    start: float
    end: float


@runtime_checkable
class Ticket(Protocol):
    """A task that was given to a lane: whether it has ended, and its outcome."""

    def done(self) -> bool:
        """Whether the task has ended, well or not; never waits."""

    def outcome(self) -> Outcome:
        """The result, once the task has ended; its value may be used on the current stream."""


@runtime_checkable
class Lane(Protocol):
    """Runs tasks one after another, in the order in which they are started."""

    @property
    def name(self) -> str:
        """The lane's name in traces and receipts."""

    def start(self, task: LaneTask, latents: Shaped[Tensor, "..."]) -> Ticket:
        """Queue or run a task. Its errors are kept in its outcome, never raised here."""

    def close(self) -> None:
        """Drop tasks that have not begun, wait for the one that runs, and free the lane."""


class LaneClosed(ValueError):
    """Something was asked of a lane that has been closed, or of a task that closing it dropped."""


def make_lane(name: str) -> Lane:
    """The lane called "inline", "thread", "stream" or "device:<device>", as in "device:cuda:1".

    Raises:
        ValueError: another name, or a device that torch does not know.
    """
    kind, _, device = name.partition(":") if isinstance(name, str) else ("", "", "")
    if name == "inline":
        return InlineLane()
    if name == "thread":
        return ThreadLane()
    if name == "stream":
        return StreamLane()
    if kind == "device" and device:
        return ThreadLane(place(f"the device of lane {shown(name)}", device))
    raise ValueError(
        f"there is no lane {shown(name)}: decoding runs 'inline', on a 'thread', on a CUDA "
        f"'stream', or on a 'device:' such as 'device:cuda:1'. Name one of them, or pass a Lane of "
        f"your own."
    )


class InlineLane:
    """Runs each task at once, on the caller's thread: the reference for every other lane."""

    name = "inline"

    def start(self, task: LaneTask, latents: Shaped[Tensor, "..."]) -> Ticket:
        """Run the task; it has ended when this returns, its copies to the host included."""
        if latents.device.type != "cuda":
            return _Ended(_run(task, latents))
        stream = torch.cuda.current_stream(latents.device)
        begun = _timed_event(stream)
        outcome = _run(task, latents)
        return _Ended(_by_events(outcome, begun, _timed_event(stream)))

    def close(self) -> None:
        """Do nothing: no task outlives ``start``."""


class ThreadLane:
    """Runs tasks on one worker thread, on the latents' device or on another that is given.

    The worker decodes under the gradient and inference mode of the caller who gave the task;
    autocast and other settings of a thread it must set for itself. With a ``device``, latents are
    moved there first: whatever ``decode`` uses must live there. On CUDA the worker has a stream of
    its own, waits on it for the latents, and ends a task when the task's kernels have ended.

    Args:
        device: where latents are moved before a task gets them; None leaves them where they are.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = None if device is None else place("ThreadLane's device", device)
        self.name = "thread" if device is None else f"device:{device}"
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._process = os.getpid()
        self._closed = False
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def start(self, task: LaneTask, latents: Shaped[Tensor, "..."]) -> Ticket:
        """Queue the task behind the ones before it.

        Raises:
            LaneClosed: the lane has been closed.
            ValueError: another process made it.
        """
        _require_own(self._process)
        if self._closed:
            raise LaneClosed(
                "this lane is closed, so no task begins on it: its thread has ended. Make another."
            )
        ready = _mark(latents.device)
        modes = (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        queued = self._worker.submit(self._work, task, latents, ready, modes)
        return _Queued(queued, self._process)

    def close(self) -> None:
        """Drop what has not begun and wait for the rest; in a forked process there is neither."""
        self._closed = True
        if self._process == os.getpid():
            self._worker.shutdown(cancel_futures=True)

    def _work(
        self,
        task: LaneTask,
        latents: Tensor,
        ready: torch.cuda.Event | None,
        modes: tuple[bool, bool],
    ) -> Outcome:
        inference, gradients = modes
        events: list[torch.cuda.Event] = []

        def whole(latents: Tensor) -> Any:
            target = latents.device if self.device is None else self.device
            with ExitStack() as streams:
                if ready is not None:
                    source = streams.enter_context(self._on_stream(latents.device))
                    source.wait_event(ready)
                    latents.record_stream(source)
                latents = latents.to(target)
                if target.type != "cuda":
                    return task(latents)
                stream = streams.enter_context(self._on_stream(target))
                events.append(_timed_event(stream))
                value = task(latents)
                events.append(_timed_event(stream))
                stream.synchronize()
                return value

        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            outcome = _run(whole, latents)
        return _by_events(outcome, *events) if len(events) == 2 else outcome

    @contextmanager
    def _on_stream(self, device: torch.device) -> Iterator[torch.cuda.Stream]:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        with torch.cuda.stream(self._streams[device]):
            yield self._streams[device]


class StreamLane:
    """Launches tasks from the caller's thread on a second CUDA stream, beside the caller's kernels.

    Nothing waits on the CPU: ``done`` asks an event. Good where launching is cheap next to what the
    kernels take; where a decoder launches thousands of small kernels, prefer the thread lane.
    """

    name = "stream"

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._clock: tuple[torch.cuda.Event, float] | None = None

    def start(self, task: LaneTask, latents: Shaped[Tensor, "..."]) -> Ticket:
        """Launch the task behind the ones before it, once the latents are ready.

        Raises:
            ValueError: the latents are not on a CUDA device.
        """
        if latents.device.type != "cuda":
            raise ValueError(
                f"lane 'stream' needs latents on a CUDA device, got {latents.device}: only CUDA "
                f"has streams. Use lane='thread', or 'inline'."
            )
        stream = self._stream or self._open(latents.device)
        stream.wait_stream(torch.cuda.current_stream(latents.device))
        latents.record_stream(stream)
        with torch.cuda.stream(stream):
            begun = _timed_event(stream)
            outcome = _run(task, latents)
            ended = _timed_event(stream)
        assert self._clock is not None
        return _Launched(outcome, begun, ended, self._clock)

    def close(self) -> None:
        """Wait for the kernels that were launched."""
        if self._stream is not None:
            self._stream.synchronize()

    def _open(self, device: torch.device) -> torch.cuda.Stream:
        """The stream, and an event whose time on the CPU's clock is known."""
        self._stream = torch.cuda.Stream(device)
        origin = _timed_event(self._stream)
        origin.synchronize()
        self._clock = (origin, time.perf_counter())
        return self._stream


@dataclass(frozen=True, slots=True)
class _Ended:
    result: Outcome

    def done(self) -> bool:
        return True

    def outcome(self) -> Outcome:
        return self.result


@dataclass(frozen=True, slots=True)
class _Queued:
    future: Future[Outcome]
    process: int

    def done(self) -> bool:
        return self.future.done()

    def outcome(self) -> Outcome:
        if not self.future.done():
            _require_own(self.process)
        try:
            outcome = self.future.result()
        except CancelledError:
            now = time.perf_counter()
            dropped = LaneClosed(
                "the lane was closed before this task began, so it was dropped and has no result. "
                "Take all results before close()."
            )
            return Outcome(None, dropped, now, now)
        _use_on_current_stream(outcome.value)
        return outcome


@dataclass(frozen=True, slots=True)
class _Launched:
    launched: Outcome
    begun: torch.cuda.Event
    ended: torch.cuda.Event
    clock: tuple[torch.cuda.Event, float]

    def done(self) -> bool:
        return self.ended.query()

    def outcome(self) -> Outcome:
        self.ended.synchronize()
        _use_on_current_stream(self.launched.value)
        origin, seconds = self.clock
        start = seconds + origin.elapsed_time(self.begun) / 1000
        end = seconds + origin.elapsed_time(self.ended) / 1000
        return Outcome(self.launched.value, self.launched.error, start, end)


def _require_own(process: int) -> None:
    """Raise ValueError in a process that was forked from the one that made a lane."""
    if process != os.getpid():
        raise ValueError(
            f"this lane was made by process {process}, and this is process {os.getpid()}: fork() "
            f"does not copy its thread, so a task would never end. Make a lane after the fork, or "
            f"start processes with 'spawn'."
        )


def _run(task: LaneTask, latents: Tensor) -> Outcome:
    """Run a task. Its error is kept, not swallowed: whoever asks for the value raises it."""
    start = time.perf_counter()
    try:
        value, error = task(latents), None
    except Exception as caught:
        value, error = None, caught
    return Outcome(value, error, start, time.perf_counter())


def _by_events(outcome: Outcome, begun: torch.cuda.Event, ended: torch.cuda.Event) -> Outcome:
    """An outcome with the times of the GPU's work, once it has ended, not those of its launch."""
    ended.synchronize()
    end = time.perf_counter()
    return replace(outcome, start=end - begun.elapsed_time(ended) / 1000, end=end)


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """A mark on the caller's stream that another stream can wait for; None off CUDA."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _timed_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


def _use_on_current_stream(value: Any) -> None:
    """Tell the allocator that the caller's stream uses what another stream allocated."""
    if isinstance(value, Tensor) and value.device.type == "cuda":
        value.record_stream(torch.cuda.current_stream(value.device))
