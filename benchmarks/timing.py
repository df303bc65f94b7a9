"""How long a call takes, on a GPU by the GPU's own clock."""

import time
from collections.abc import Callable
from statistics import median

import torch

CALLS = 10  # in a row, so that the GPU does not wait for the next launch


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median time of one of ``CALLS`` calls in a row, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(CALLS):
                run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / CALLS)
        else:
            began = time.perf_counter()
            for _ in range(CALLS):
                run()
            times.append((time.perf_counter() - began) / CALLS)
    return median(times[1:])
