"""A lane runs jobs in order, keeps their errors, and works under the caller's modes."""

import threading

import pytest
import torch

from longlive_core.async_decode import InlineLane, StreamLane, ThreadLane, make_lane

LANES = [InlineLane, ThreadLane, lambda: ThreadLane(torch.device("cpu"))]


@pytest.mark.parametrize("make", LANES, ids=["inline", "thread", "device:cpu"])
def test_jobs_run_in_order_and_errors_are_kept(make):
    lane, ran = make(), []

    def job(latents):
        ran.append(latents.item())
        return 1 / latents.item()

    tickets = [lane.start(job, torch.tensor(float(value))) for value in (1, 0, 2)]
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

    def job(latents):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    lane = make()
    with modes[mode]():
        here = job(None)
        ticket = lane.start(job, torch.zeros(1))
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
        ("device:cuda:1", ThreadLane),
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


def test_a_stream_off_cuda_is_refused():
    lane = StreamLane()
    with pytest.raises(ValueError, match="needs latents on a CUDA device, got cpu.*lane='thread'"):
        lane.start(lambda latents: latents, torch.zeros(1))
    lane.close()
