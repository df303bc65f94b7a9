"""What every lane of a generation did when: denoising, clean passes, decoding, copying, encoding.

Spans are recorded while a video is made and cost nothing to speak of. From them come a file that
Perfetto (https://ui.perfetto.dev) shows, the critical path (the chain of work that the video waited
for) and the bubbles (how long each lane had nothing to do in between).
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

DENOISE, CLEAN_PASS, DECODE, HOST_COPY, ENCODE = (
    "denoise",
    "clean pass",
    "decode",
    "host copy",
    "encode",
)
LANES = (DENOISE, CLEAN_PASS, DECODE, HOST_COPY, ENCODE)

WAITS_FOR: Mapping[str, tuple[str, ...]] = {
    DENOISE: (DENOISE, CLEAN_PASS, DECODE, HOST_COPY, ENCODE),
    CLEAN_PASS: (DENOISE,),
    DECODE: (CLEAN_PASS, DECODE),
    HOST_COPY: (DECODE,),
    ENCODE: (HOST_COPY, DECODE, ENCODE, CLEAN_PASS),
}
"""What work of each lane may have had to wait for: of its block, or of the blocks before it. The
thread that encodes has first launched, or on a CPU computed, a later block's passes."""

SLACK = 1e-4
"""Seconds by which two clocks may disagree about which of two spans was first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One piece of work.

    Attributes:
        lane: one of ``LANES``.
        block: of which block of the video.
        start, end: in seconds of ``time.perf_counter``; on a GPU by its own clock.
        step: which denoising step, from 0; None for what is no step.
    """

    lane: str
    block: int
    start: float
    end: float
    step: int | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class Clock:
    """Marks moments of a device, and tells them in seconds of ``time.perf_counter``.

    On a GPU a mark is an event on the current stream, and only ``seconds`` waits for it. Making a
    clock waits for the GPU once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._origin: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._origin = self._event()
            self._origin.synchronize()
        self._began = time.perf_counter()

    def mark(self) -> "torch.cuda.Event | float":
        """This moment: of the device's work so far, not of its launch."""
        return time.perf_counter() if self._origin is None else self._event()

    def seconds(self, mark: "torch.cuda.Event | float") -> float:
        """When a mark was reached; waits until it is."""
        if isinstance(mark, float):
            return mark
        assert self._origin is not None, "a clock tells its own marks"
        mark.synchronize()
        return self._began + self._origin.elapsed_time(mark) / 1000

    def between(self, first: "torch.cuda.Event | float", last: "torch.cuda.Event | float") -> float:
        """The seconds from one mark to another; waits until it is reached."""
        if isinstance(first, float) or isinstance(last, float):
            return self.seconds(last) - self.seconds(first)
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


class Laps:
    """Moments of a device's work, the first of which is when this is made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks = [clock.mark()]

    def mark(self) -> None:
        """Note this moment."""
        self._marks.append(self._clock.mark())

    def times(self) -> list[float]:
        """The moments in seconds of ``time.perf_counter``; waits for the last one."""
        return [self._clock.seconds(mark) for mark in self._marks]

    def seconds(self) -> float:
        """From the first moment to the last; waits for it."""
        return self._clock.between(self._marks[0], self._marks[-1])


def spans_of_block(block: int, denoised: Laps, decoded: Laps | None) -> list[Span]:
    """The spans of a block, from the moments that its making noted.

    Args:
        block: the block's number.
        denoised: the start, the end of each step, the end of the clean pass.
        decoded: the start, the end of decoding, the end of the copy; None if nothing was decoded.
    """
    *ends, clean = denoised.times()
    steps = zip(ends, ends[1:], strict=False)
    spans = [
        Span(lane=DENOISE, block=block, start=start, end=end, step=step)
        for step, (start, end) in enumerate(steps)
    ]
    spans.append(Span(lane=CLEAN_PASS, block=block, start=ends[-1], end=clean))
    if decoded is not None:
        begun, made, copied = decoded.times()
        spans.append(Span(lane=DECODE, block=block, start=begun, end=made))
        spans.append(Span(lane=HOST_COPY, block=block, start=made, end=copied))
    return spans


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a trace says of a video's time.

    Attributes:
        seconds: from the first span's start to the last one's end.
        path: seconds of the critical path by lane, and "waiting" where none of them worked.
        bubbles: of each lane, the seconds without work between its first and its last span.
        busy: of each lane, the seconds with work.
    """

    seconds: float
    path: Mapping[str, float]
    bubbles: Mapping[str, float]
    busy: Mapping[str, float]

    def lines(self) -> list[str]:
        """Critical path and bubbles as text, a line each."""
        whole = self.seconds or 1.0
        path = (f"{name} {took:.2f} s ({took / whole:.0%})" for name, took in self.path.items())
        idle = (
            f"{lane} {self.bubbles[lane]:.2f} s beside {busy:.2f} s of work"
            for lane, busy in self.busy.items()
        )
        return [
            f"critical path of {self.seconds:.2f} s: {', '.join(path)}",
            f"bubbles: {', '.join(idle)}",
        ]


def summarize(spans: Iterable[Span]) -> Summary:
    """The critical path and the bubbles of a video's spans."""
    ordered = sorted(spans, key=lambda span: (span.start, span.end))
    if not ordered:
        return Summary(seconds=0.0, path={}, bubbles={}, busy={})
    by_lane = {lane: [span for span in ordered if span.lane == lane] for lane in LANES}
    held = {lane: found for lane, found in by_lane.items() if found}
    busy = {lane: _covered(found) for lane, found in held.items()}
    bubbles = {
        lane: max(span.end for span in found) - found[0].start - busy[lane]
        for lane, found in held.items()
    }
    path = critical_path(ordered)
    parts: dict[str, float] = defaultdict(float)
    for span, after in zip(path, [*path[1:], None], strict=True):
        parts[span.lane] += (span.end if after is None else min(span.end, after.start)) - span.start
        if after is not None:
            parts["waiting"] += max(0.0, after.start - span.end)
    seconds = max(span.end for span in ordered) - ordered[0].start
    return Summary(
        seconds=seconds,
        path={name: parts[name] for name in (*LANES, "waiting") if name in parts},
        bubbles=bubbles,
        busy=busy,
    )


def critical_path(spans: Sequence[Span]) -> list[Span]:
    """The chain of spans that the last one waited for, first to last.

    Before each span stands the one that ended last of those that it may have waited for.
    """
    path = [max(spans, key=lambda span: span.end)]
    while True:
        now = path[-1]
        before = [
            span
            for span in spans
            if span.lane in WAITS_FOR[now.lane]
            and (span.block <= now.block or (now.lane, span.lane) == (ENCODE, CLEAN_PASS))
            and span.start < now.start
            and span.end <= now.start + SLACK
        ]
        if not before:
            return path[::-1]
        path.append(max(before, key=lambda span: span.end))


def perfetto(videos: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """A trace as Perfetto and Chrome read it: a process for each video, a thread for each lane."""
    events: list[dict[str, Any]] = []
    origin = min((span.start for spans in videos.values() for span in spans), default=0.0)
    for process, (name, spans) in enumerate(videos.items(), start=1):
        events.append(_named("process_name", name, process, 0))
        for thread, lane in enumerate(LANES, start=1):
            events.append(_named("thread_name", lane, process, thread))
            events += [
                {
                    "ph": "X",
                    "name": _title(span),
                    "cat": lane,
                    "pid": process,
                    "tid": thread,
                    "ts": round((span.start - origin) * 1e6, 3),
                    "dur": round(span.seconds * 1e6, 3),
                    "args": {"block": span.block}
                    | ({} if span.step is None else {"step": span.step}),
                }
                for span in spans
                if span.lane == lane
            ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(kind: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _title(span: Span) -> str:
    step = "" if span.step is None else f", step {span.step + 1}"
    return f"{span.lane}, block {span.block}{step}"


def _covered(spans: Sequence[Span]) -> float:
    """The seconds that spans, ordered by their start, cover; where two overlap, once."""
    total, reached = 0.0, spans[0].start
    for span in spans:
        total += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return total
