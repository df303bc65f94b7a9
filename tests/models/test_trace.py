"""The lanes of a video in time: what waited for what, who was idle, and the file of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.trace import (
    CLEAN_PASS,
    DECODE,
    DENOISE,
    ENCODE,
    HOST_COPY,
    LANES,
    Clock,
    Laps,
    Span,
    critical_path,
    perfetto,
    summarize,
)
from tests.models.tiny_pipeline import tiny_pipeline


def span(lane: str, block: int, start: float, end: float, step: int | None = None) -> Span:
    return Span(lane=lane, block=block, start=start, end=end, step=step)


OVERLAPPED = [
    span(DENOISE, 0, 0.0, 1.0, 0),
    span(DENOISE, 0, 1.0, 2.0, 1),
    span(CLEAN_PASS, 0, 2.0, 2.5),
    span(DECODE, 0, 2.5, 5.5),
    span(HOST_COPY, 0, 5.5, 5.75),
    span(DENOISE, 1, 2.5, 3.5, 0),
    span(DENOISE, 1, 3.5, 4.5, 1),
    span(CLEAN_PASS, 1, 4.5, 5.0),
    span(DECODE, 1, 5.5, 8.5),
    span(HOST_COPY, 1, 8.5, 8.75),
    span(ENCODE, 0, 5.75, 6.25),
    span(ENCODE, 1, 9.0, 9.5),
]


def test_the_critical_path_goes_through_what_was_waited_for():
    """Decoding is longer than denoising: behind the first block the path stays with it."""
    path = [(one.lane, one.block) for one in critical_path(OVERLAPPED)]
    assert path == [
        (DENOISE, 0),
        (DENOISE, 0),
        (CLEAN_PASS, 0),
        (DECODE, 0),
        (DECODE, 1),
        (HOST_COPY, 1),
        (ENCODE, 1),
    ]
    found = summarize(OVERLAPPED)
    assert found.seconds == 9.5
    assert found.path == {
        DENOISE: 2.0,
        CLEAN_PASS: 0.5,
        DECODE: 6.0,
        HOST_COPY: 0.25,
        ENCODE: 0.5,
        "waiting": 0.25,
    }
    assert found.busy[DECODE] == 6.0
    assert found.bubbles == {
        DENOISE: 0.5,
        CLEAN_PASS: 2.0,
        DECODE: 0.0,
        HOST_COPY: 2.75,
        ENCODE: 2.75,
    }
    path_line, bubble_line = found.lines()
    assert path_line.startswith("critical path of 9.50 s: denoise 2.00 s (21%), clean pass")
    assert "waiting 0.25 s (3%)" in path_line
    assert "decode 0.00 s beside 6.00 s of work" in bubble_line


def test_a_thread_that_denoises_ahead_encodes_afterwards():
    """Frames that are decoded wait for the next block's passes: that is no waiting for nothing."""
    spans = [
        span(DENOISE, 0, 0.0, 2.0, 0),
        span(CLEAN_PASS, 0, 2.0, 3.0),
        span(DENOISE, 1, 3.0, 7.0, 0),
        span(DECODE, 0, 3.0, 5.0),
        span(HOST_COPY, 0, 5.0, 5.0),
        span(CLEAN_PASS, 1, 7.0, 8.0),
        span(ENCODE, 0, 8.0, 8.5),
    ]
    found = summarize(spans)
    assert "waiting" not in found.path or found.path["waiting"] == 0
    assert found.path[DENOISE] == 6.0
    assert DECODE not in found.path


times = st.floats(0, 100, allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 3), times, times), max_size=12))
def test_path_and_bubbles_are_parts_of_the_whole(drawn):
    spans = [span(lane, block, min(a, b), max(a, b)) for lane, block, a, b in drawn]
    found = summarize(spans)
    for lane, idle in found.bubbles.items():
        assert -1e-9 <= idle <= found.seconds + 1e-9
        assert found.busy[lane] + idle <= found.seconds + 1e-6
    assert sum(found.path.values()) <= found.seconds + 1e-6
    assert all(took >= -1e-3 for took in found.path.values())


def test_the_file_has_a_process_for_each_video_and_a_thread_for_each_lane():
    made = perfetto({"one": OVERLAPPED, "two": [span(DENOISE, 0, 9.5, 10.0)]})
    events = made["traceEvents"]
    names = {(e["pid"], e["args"]["name"]) for e in events if e["ph"] == "M"}
    assert {(1, "one"), (2, "two"), *((1, lane) for lane in LANES)} <= names
    work = [e for e in events if e["ph"] == "X"]
    assert len(work) == len(OVERLAPPED) + 1
    first = work[0]
    assert (first["name"], first["ts"], first["dur"]) == ("denoise, block 0, step 1", 0.0, 1e6)
    assert first["args"] == {"block": 0, "step": 0}
    assert work[-1]["ts"] == 9.5e6


def test_nothing_done_is_nothing_waited_for():
    assert summarize([]).lines()[0] == "critical path of 0.00 s: "
    assert perfetto({}) == {"traceEvents": [], "displayTimeUnit": "ms"}


def test_a_clock_tells_its_marks_in_order():
    clock = Clock(torch.device("cpu"))
    marks = [clock.mark() for _ in range(3)]
    assert [clock.seconds(mark) for mark in marks] == sorted(map(clock.seconds, marks))


def test_laps_tell_the_seconds_between_the_first_and_the_last(monkeypatch):
    times = iter([7.0, 10.0, 11.0, 12.5])
    monkeypatch.setattr("longlive_models.trace.time.perf_counter", lambda: next(times))
    laps = Laps(Clock(torch.device("cpu")))
    laps.mark()
    laps.mark()
    assert laps.seconds() == 2.5
    assert laps.times() == [10.0, 11.0, 12.5]


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_a_stream_traces_every_step_pass_and_block(lane):
    runtime = Runtime.choose(RuntimeOptions(device="cpu", lane=lane))
    pipe = tiny_pipeline(runtime, steps=3)
    stream = pipe.stream("a red circle", seconds=2, seed=1)
    blocks = list(stream)
    spans = stream.trace
    assert len(blocks) >= 2
    for block in range(len(blocks)):
        own = [one for one in spans if one.block == block]
        steps = [one for one in own if one.lane == DENOISE]
        assert [one.step for one in steps] == [0, 1, 2]
        [clean], [decode], [copy] = (
            [one for one in own if one.lane == lane] for lane in (CLEAN_PASS, DECODE, HOST_COPY)
        )
        assert steps[0].end <= steps[1].start + 1e-9
        assert steps[2].end <= clean.start <= clean.end <= decode.start
        assert decode.end <= copy.start <= copy.end
        denoised = clean.end - steps[0].start
        assert denoised == pytest.approx(blocks[block].timing.denoise, abs=0.05)
        assert decode.seconds <= blocks[block].timing.decode + 1e-6
    assert all(one.seconds >= 0 for one in spans)
