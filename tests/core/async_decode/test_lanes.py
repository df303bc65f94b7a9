"""A lane runs tasks in order, keeps their errors, and works under the caller's modes."""

import os
import threading
import warnings

import pytest
import torch

from longlive_core.async_decode import InlineLane, LaneClosed, StreamLane, ThreadLane, make_lane

LANES = [InlineLane, ThreadLane, lambda: ThreadLane(torch.device("cpu"))]


@pytest.mark.parametrize("make", LANES, ids=["inline", "thread", "device:cpu"])
def test_jobs_run_in_order_and_errors_are_kept(make):
    lane, ran = make(), []

    def task(latents):
        ran.append(latents.item())
        return 1 / latents.item()

    tickets = [lane.start(task, torch.tensor(float(value))) for value in (1, 0, 2)]
    outcomes = [ticket.outcome() for ticket in tickets]
    assert ran == [1.0, 0.0, 2.0]
    assert [outcome.value for outcome in outcomes] == [1.0, None, 0.5]
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        ZeroDivisionError,
        type(None),
    ]
    assert all(ticket.done() for ticket in tickets)
    times = [time for outcome in outcomes for time in (outcome.start, outcome.end)]
    assert times == sorted(times)
    lane.close()


@pytest.mark.parametrize("make", LANES, ids=["inline", "thread", "device:cpu"])
@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
def test_a_job_runs_under_the_caller_s_modes(make, mode):
    modes = {
        "grad": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
    }

    def task(latents):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    lane = make()
    with modes[mode]():
        here = task(None)
        ticket = lane.start(task, torch.zeros(1))
    assert ticket.outcome().value == here
    lane.close()


def test_the_thread_lane_leaves_the_caller_s_thread():
    lane = ThreadLane()
    ticket = lane.start(lambda latents: threading.get_ident(), torch.zeros(1))
    assert ticket.outcome().value != threading.get_ident()
    lane.close()
    inline = InlineLane().start(lambda latents: threading.get_ident(), torch.zeros(1))
    assert inline.outcome().value == threading.get_ident()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("inline", InlineLane),
        ("thread", ThreadLane),
        ("stream", StreamLane),
        ("device:cpu", ThreadLane),
        pytest.param(
            "device:cuda:0",
            ThreadLane,
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        ),
    ],
)
def test_lanes_are_made_by_name(name, kind):
    lane = make_lane(name)
    assert type(lane) is kind
    assert lane.name == name
    lane.close()


@pytest.mark.parametrize("name", ["", "threads", "device", "device:", "cuda:1"])
def test_an_unknown_lane_is_refused_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=f"no lane '{name}': decoding runs 'inline', on a 'thread'"
    ):
        make_lane(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_lane_of_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="lane 'device:cuda:1' is 'cuda:1', a GPU, and this torch"):
        make_lane("device:cuda:1")


def test_a_stream_off_cuda_is_refused():
    lane = StreamLane()
    with pytest.raises(ValueError, match="needs latents on a CUDA device, got cpu.*lane='thread'"):
        lane.start(lambda latents: latents, torch.zeros(1))
    lane.close()


@pytest.mark.parametrize("name", ["device:nonsense", "device:cpu:x"])
def test_what_names_no_lane_is_refused_in_words(name):
    with pytest.raises(ValueError, match="lane"):
        make_lane(name)


def test_a_job_that_closing_dropped_has_ended_and_says_so():
    lane, gate = ThreadLane(), threading.Event()
    running = lane.start(lambda latents: gate.wait(10), torch.zeros(1))
    waiting = lane.start(lambda latents: 1, torch.zeros(1))
    assert not waiting.done()
    closing = threading.Thread(target=lane.close)
    closing.start()
    while not waiting.done():
        pass
    assert isinstance(waiting.outcome().error, LaneClosed)
    assert "dropped" in str(waiting.outcome().error)
    gate.set()
    closing.join()
    assert running.outcome().value is True
    with pytest.raises(LaneClosed, match="this lane is closed"):
        lane.start(lambda latents: 1, torch.zeros(1))


def test_a_lane_that_was_inherited_through_fork_is_refused():
    """Its thread is not copied: a task would never end."""
    lane, gate = ThreadLane(), threading.Event()
    ended = lane.start(lambda latents: 3, torch.zeros(1))
    assert ended.outcome().value == 3
    pending = lane.start(lambda latents: gate.wait(10), torch.zeros(1))
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        told = [str(ended.outcome().value)]
        for ask in (lambda: lane.start(lambda latents: 1, torch.zeros(1)), pending.outcome):
            try:
                ask()
                told.append("went on")
            except ValueError as error:
                told.append(str(error)[:25])
        lane.close()
        os.write(writer, "|".join(told).encode())
        os._exit(0)
    os.close(writer)
    gate.set()
    with os.fdopen(reader) as pipe:
        ready = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert ready == "|".join(["3", *["this lane was made by pro"] * 2])
    lane.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["inline", "thread", "stream"])
def test_times_are_of_the_gpu_s_work_and_not_of_its_launch(name):
    """Work that was queued before is not in them."""
    x = torch.randn(4096, 4096, device="cuda")

    def work(latents: torch.Tensor) -> torch.Tensor:
        for _ in range(50):
            latents = latents @ x
        return latents

    work(x)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    work(x)
    ended.record()
    ended.synchronize()
    seconds = begun.elapsed_time(ended) / 1000
    lane = make_lane(name)
    queued = work(x)
    outcome = lane.start(work, queued).outcome()
    assert 0.5 * seconds < outcome.end - outcome.start < 1.6 * seconds
    lane.close()
