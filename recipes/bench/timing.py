"""How long a call takes, on a GPU by the GPU's own clock."""

import time
from collections.abc import Callable
from statistics import median

import torch

CALLS = 10  # in a row, so that the GPU does not wait for the next launch


def median_seconds(
    run: Callable[[], object], device: torch.device, repeats: int, *, captured: bool = False
) -> float:
    """The median time of one of ``CALLS`` calls in a row, after a warm-up.

    ``captured``: a GPU replays the calls from a graph, so that what Python takes to launch them is
    not in the time. A CPU just calls.
    """
    calls: Callable[[], object] = _repeated(run)
    if device.type != "cuda":
        return median([_on_cpu(calls) for _ in range(repeats + 1)][1:])
    if captured:
        calls = _graph(calls)
    return median([_on_gpu(calls) for _ in range(repeats + 1)][1:])


def _repeated(run: Callable[[], object]) -> Callable[[], object]:
    def calls() -> None:
        for _ in range(CALLS):
            run()

    return calls


def _graph(calls: Callable[[], object]) -> Callable[[], object]:
    """The same calls as one launch. They run once before: kernels are compiled then."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        calls()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return graph.replay


def _on_gpu(calls: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    calls()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / CALLS


def _on_cpu(calls: Callable[[], object]) -> float:
    began = time.perf_counter()
    calls()
    return (time.perf_counter() - began) / CALLS
