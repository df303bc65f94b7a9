"""Ranks of this host for benchmarks: processes with a GPU each (NCCL), or a thread each (gloo).

Where a host has fewer GPUs than ranks they share them, through gloo: what they compute has the same
bits, but their times say nothing.
"""

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.checkpoints.tensor_files import read_pickle

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another one in one exchange."""


def on_ranks(
    count: int, device_type: str, function: Callable[..., Any], *arguments: Any
) -> list[Any]:
    """``function(group, device, *arguments)`` on ranks that are started for it; results by rank.

    Args:
        count: how many ranks.
        device_type: "cpu" or "cuda"; rank ``r`` has the device ``cuda:r``, counted around where
            there are fewer GPUs.
        function, arguments: of modules, so that another process can find them.

    Raises:
        AssertionError: that of a rank.
        torch.multiprocessing.ProcessRaisedException: any other error of a rank, with its traceback.
        torch.multiprocessing.ProcessExitedException: a rank died.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = (count, device_type, Path(folder), function, arguments)
        try:
            mp.spawn(_serve, job, nprocs=count, daemon=True)
        except mp.ProcessRaisedException as error:
            for wrong in Path(folder).glob("wrong_*"):
                raise AssertionError(wrong.read_text()) from error
            raise
        return [read_pickle(_answer(Path(folder), rank)) for rank in range(count)]


def slowest_seconds(
    run: Callable[[], object],
    group: SequenceGroup,
    device: torch.device,
    repeats: int,
    *,
    launched: bool = False,
) -> float:
    """The median time of a call, in seconds, of the rank that takes longest in each repeat.

    Ranks begin together; a GPU has ended its work when the clock stops, or has been given all of
    it if ``launched``.
    """
    times = []
    for _ in range(repeats):
        _meet(group, device)
        began = time.perf_counter()
        run()
        if not launched:
            _finish(device)
        took = time.perf_counter() - began
        seconds = torch.tensor(took, dtype=torch.float64, device=device)
        times.append(float(group.max(seconds)))
    return median(times)


def reset_peak_memory(device: torch.device) -> None:
    """Forget what a GPU held at most so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gpu_memory(group: SequenceGroup, device: torch.device) -> dict[str, float]:
    """The most MiB in use on the fullest GPU, as a part of a row; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    held = torch.tensor(torch.cuda.max_memory_allocated(device), dtype=torch.int64, device=device)
    return {"peak_memory_mib": float(group.max(held)) / 2**20}


def _serve(
    rank: int,
    count: int,
    device_type: str,
    folder: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """What a rank does: join the others, work, leave its result in the folder."""
    own_gpu = False
    if device_type == "cuda":
        gpus = torch.cuda.device_count()
        own_gpu = count <= gpus
        device = torch.device("cuda", rank % gpus)
        torch.cuda.set_device(device)
    else:
        device = torch.device(device_type)
        torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if own_gpu else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=count,
        timeout=TIMEOUT,
        device_id=device if own_gpu else None,
    )
    everyone = dist.group.WORLD
    assert everyone is not None, "the process group was made above"
    try:
        answer = function(SequenceGroup.of(everyone), device, *arguments)
    except AssertionError as error:
        (folder / f"wrong_{rank}").write_text(str(error))
        raise
    torch.save(answer, _answer(folder, rank))
    dist.destroy_process_group()


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer_{rank}.pt"


def _meet(group: SequenceGroup, device: torch.device) -> None:
    """Return when every rank has come here."""
    group.sum(torch.zeros((), dtype=torch.float32, device=device))
    _finish(device)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
