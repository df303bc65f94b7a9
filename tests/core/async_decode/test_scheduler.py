"""Async equals sync: whatever the lane, the same frames, in order; errors surface; depth holds."""

import threading
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.async_decode import AsyncDecodeScheduler, InlineLane, LaneClosed, Span
from longlive_core.testing import assert_bitwise_equal

CPU_LANES = ["inline", "thread", "device:cpu"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LANES = [
    *CPU_LANES,
    pytest.param("stream", marks=needs_gpu),
    pytest.param("device:cuda:0", marks=needs_gpu),
]
PATIENCE = 10.0  # seconds a test waits for what must happen


def decode(latents, state):
    """Frames that depend on every block before: a running sum is the state."""
    state = latents if state is None else state.to(latents.device) * 0.5 + latents
    return torch.cat([state, state.flip(-1)], dim=-1), state


def one_by_one(blocks, state=None):
    frames = []
    for latents in blocks:
        decoded, state = decode(latents, state)
        frames.append(decoded)
    return frames, state


def latents_for(lane: str, count: int) -> list[torch.Tensor]:
    device = "cuda" if lane in ("stream", "device:cuda:0") else "cpu"
    return [torch.randn(2, 3, device=device) for _ in range(count)]


@pytest.mark.parametrize("lane", LANES)
@given(
    count=st.integers(0, 7),
    depth=st.integers(1, 3),
    asks=st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_any_lane_gives_what_decoding_one_by_one_gives(lane, count, depth, asks):
    blocks = latents_for(lane, count)
    want, final_state = one_by_one(blocks)
    got = []
    with AsyncDecodeScheduler(decode, lane=lane, depth=depth) as decoder:
        for latents, ask in zip(blocks, asks, strict=False):
            decoder.submit(latents)
            if ask:
                got += decoder.ready()
        got += decoder.finish()
        assert len(got) == count
        for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            assert_bitwise_equal(ours, theirs, f"block {index}")
        if count:
            assert_bitwise_equal(decoder.state, final_state, "state")
        assert list(decoder.finish()) == []


@pytest.mark.parametrize("lane", LANES)
def test_a_stream_resumed_from_its_state_goes_on_as_if_it_never_stopped(lane):
    blocks = latents_for(lane, 6)
    want, _ = one_by_one(blocks)
    with AsyncDecodeScheduler(decode, lane=lane) as decoder:
        for latents in blocks[:3]:
            decoder.submit(latents)
        state = decoder.state
        first = list(decoder.finish())
    with AsyncDecodeScheduler(decode, lane=lane, state=state) as decoder:
        for latents in blocks[3:]:
            decoder.submit(latents)
        rest = list(decoder.finish())
    for ours, theirs in zip(first + rest, want, strict=True):
        assert_bitwise_equal(ours, theirs)


class FailsAt:
    """Decodes until a block of sevens, which it refuses; counts what it was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, latents, state):
        self.asked += 1
        if latents.flatten()[0] == 7:
            raise ArithmeticError("a block of sevens")
        return latents + 1, state


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


@pytest.mark.parametrize("lane", CPU_LANES)
def test_an_error_surfaces_at_the_next_call_after_the_frames_before_it(lane):
    failing = FailsAt()
    with (
        pytest.raises(ArithmeticError, match="a block of sevens"),
        AsyncDecodeScheduler(failing, lane=lane, depth=4) as decoder,
    ):
        for value in (1.0, 2.0, 7.0):
            decoder.submit(torch.full((2,), value))
        wait_until(lambda: decoder.in_flight == 0)
        with pytest.raises(ArithmeticError, match="a block of sevens"):
            decoder.submit(torch.zeros(2))
        with pytest.raises(ArithmeticError, match="a block of sevens"):
            _ = decoder.state
        good = []
        with pytest.raises(ArithmeticError, match="a block of sevens"):
            for frames in decoder.ready():
                good.append(frames)
        assert [frames[0].item() for frames in good] == [2.0, 3.0]
        assert failing.asked == 3
        list(decoder.finish())  # raises again


def test_blocks_behind_an_error_are_not_decoded():
    gate, failing = threading.Event(), FailsAt()

    def gated(latents, state):
        assert gate.wait(PATIENCE)
        return failing(latents, state)

    decoder = AsyncDecodeScheduler(gated, lane="thread", depth=5)
    for value in (1.0, 7.0, 3.0, 4.0):
        decoder.submit(torch.full((2,), value))
    gate.set()
    wait_until(lambda: decoder.in_flight == 0)
    finished = decoder.finish()
    assert next(finished)[0].item() == 2.0
    with pytest.raises(ArithmeticError, match="a block of sevens"):
        next(finished)
    assert failing.asked == 2
    decoder.close()


@pytest.mark.parametrize("lane", CPU_LANES)
def test_an_error_that_nobody_asked_about_is_raised_at_the_end(lane):
    with (
        pytest.raises(ArithmeticError, match="a block of sevens"),
        AsyncDecodeScheduler(FailsAt(), lane=lane) as decoder,
    ):
        decoder.submit(torch.full((2,), 7.0))


@pytest.mark.parametrize("lane", CPU_LANES)
def test_the_caller_s_own_error_is_not_replaced(lane):
    with (
        pytest.raises(KeyError, match="mine"),
        AsyncDecodeScheduler(FailsAt(), lane=lane) as decoder,
    ):
        decoder.submit(torch.full((2,), 7.0))
        raise KeyError("mine")


def test_an_interrupt_while_decoding_leaves_nothing_to_go_on_from():
    def interrupted(latents, state):
        raise KeyboardInterrupt

    decoder = AsyncDecodeScheduler(interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoder.submit(torch.zeros(1))
    decoder.submit(torch.zeros(1))
    with pytest.raises(RuntimeError, match="an earlier block was not decoded"):
        list(decoder.ready())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_submit_waits_only_while_depth_blocks_are_in_flight(depth):
    gate = threading.Semaphore(0)

    def gated(latents, state):
        assert gate.acquire(timeout=PATIENCE)
        return latents, state

    with AsyncDecodeScheduler(gated, lane="thread", depth=depth) as decoder:
        for _ in range(depth):
            decoder.submit(torch.zeros(1))  # none of them waits
        assert decoder.in_flight == depth
        assert list(decoder.ready()) == []
        for _ in range(2):  # finished blocks that nobody has taken yet make no difference
            submitted = threading.Event()

            def one_more(submitted: threading.Event = submitted) -> None:
                decoder.submit(torch.ones(1))
                submitted.set()

            waiting = threading.Thread(target=one_more)
            waiting.start()
            assert not submitted.wait(0.05)
            gate.release()
            assert submitted.wait(PATIENCE)
            waiting.join()
        for _ in range(depth):
            gate.release()
        assert len(list(decoder.finish())) == depth + 2


def test_decoding_goes_on_beside_the_caller():
    """The worker and the caller meet at a barrier, which neither could pass alone."""
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def meet(latents, state):
        meeting.wait()
        return latents, state

    with AsyncDecodeScheduler(meet, lane="thread") as decoder:
        decoder.submit(torch.zeros(1))
        meeting.wait()
        assert len(list(decoder.finish())) == 1


def test_leaving_early_drops_what_has_not_begun():
    started, gate, asked = threading.Event(), threading.Event(), []

    def gated(latents, state):
        asked.append(latents)
        started.set()
        assert gate.wait(PATIENCE)
        return latents, state

    with AsyncDecodeScheduler(gated, lane="thread", depth=3) as decoder:
        for _ in range(3):
            decoder.submit(torch.zeros(1))
        assert started.wait(PATIENCE)
        threading.Timer(0.02, gate.set).start()
    assert len(asked) == 1


@pytest.mark.parametrize("lane", CPU_LANES)
def test_the_trace_tells_when_and_where_in_order(lane):
    before = time.perf_counter()
    with AsyncDecodeScheduler(decode, lane=lane) as decoder:
        for latents in latents_for(lane, 3):
            decoder.submit(latents)
        list(decoder.finish())
    spans = decoder.trace
    assert [(span.block, span.lane) for span in spans] == [(i, lane) for i in range(3)]
    times = [before, *(time for span in spans for time in (span.start, span.end))]
    assert times == sorted(times)
    assert all(span.seconds == span.end - span.start for span in spans)
    assert isinstance(spans[0], Span)


def test_a_lane_of_one_s_own_is_used():
    lane = InlineLane()
    decoder = AsyncDecodeScheduler(decode, lane=lane)
    assert decoder.lane == "inline"
    decoder.submit(torch.zeros(2))
    assert len(list(decoder.ready())) == 1


@pytest.mark.parametrize("lane", LANES)
def test_frames_come_to_the_host_when_asked(lane):
    blocks = latents_for(lane, 4)
    want, _ = one_by_one(blocks)
    with AsyncDecodeScheduler(decode, lane=lane, to_host=True) as decoder:
        for latents in blocks:
            decoder.submit(latents)
        got = list(decoder.finish())
    for ours, theirs in zip(got, want, strict=True):
        assert ours.device.type == "cpu"
        assert_bitwise_equal(ours, theirs)


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_of_nothing_is_refused(depth):
    with pytest.raises(ValueError, match="depth is.*at least one block must be in flight"):
        AsyncDecodeScheduler(decode, depth=depth)


def test_closing_a_busy_lane_leaves_what_was_decoded_and_names_what_was_dropped():
    gate = threading.Event()

    def gated(latents, state):
        assert gate.wait(PATIENCE)
        return decode(latents, state)

    decoder = AsyncDecodeScheduler(gated, lane="thread", depth=4)
    blocks = latents_for("thread", 3)
    for latents in blocks:
        decoder.submit(latents)
    closing = threading.Thread(target=decoder.close)
    closing.start()
    wait_until(lambda: decoder.in_flight == 1)  # the one that runs
    gate.set()
    closing.join()
    assert decoder.in_flight == 0
    finished = decoder.finish()
    assert_bitwise_equal(next(finished), one_by_one(blocks)[0][0])
    with pytest.raises(LaneClosed, match="dropped"):
        next(finished)
    with pytest.raises(LaneClosed):
        _ = decoder.state
    with pytest.raises(LaneClosed, match="submit after close"):
        decoder.submit(blocks[0])


@pytest.mark.parametrize("lane", CPU_LANES)
def test_every_lane_is_closed_for_good(lane):
    decoder = AsyncDecodeScheduler(decode, lane=lane)
    decoder.close()
    decoder.close()
    with pytest.raises(LaneClosed):
        decoder.submit(torch.zeros(2, 2))


def test_leaving_a_with_early_is_no_error():
    with AsyncDecodeScheduler(decode, lane="thread", depth=9) as decoder:
        for latents in latents_for("thread", 5):
            decoder.submit(latents)


@pytest.mark.parametrize(
    ("returned", "to_host", "message"),
    [
        (torch.zeros(2, 3), False, r"decode returned a tensor of \[2, 3\]: it returns the tuple"),
        (None, False, r"decode returned None.*Return \(frames, None\)"),
        ((1, 2, 3), False, r"decode returned \(1, 2, 3\)"),
        (((torch.zeros(1), torch.zeros(1)), None), True, "frames of type tuple, and to_host=True"),
    ],
)
def test_what_is_no_frames_and_state_is_refused(returned, to_host, message):
    decoder = AsyncDecodeScheduler(lambda latents, state: returned, to_host=to_host)
    decoder.submit(torch.zeros(1))
    with pytest.raises(ValueError, match=message):
        next(decoder.ready())


def test_frames_may_be_several_tensors_where_they_stay():
    frames = (torch.zeros(1), torch.ones(1))
    decoder = AsyncDecodeScheduler(lambda latents, state: (frames, None))
    decoder.submit(torch.zeros(1))
    assert list(decoder.finish()) == [frames]
