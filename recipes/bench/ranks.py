"""Ranks of this host for benchmarks: processes with a GPU each (NCCL), or a thread each (gloo)."""

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

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def on_ranks(count: int, device: str, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(group, place, *arguments)`` on ranks that are started for it; results by rank.

    Args:
        count: how many ranks; on "cuda" the host has as many GPUs or more.
        device: "cpu" or "cuda"; rank ``r`` has the place ``cuda:r``.
        function, arguments: of modules, so that another process can find them.

    Raises:
        AssertionError: that of a rank.
        torch.multiprocessing.ProcessRaisedException: any other error of a rank, with its traceback.
        torch.multiprocessing.ProcessExitedException: a rank died.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = (count, device, Path(folder), function, arguments)
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
    place: torch.device,
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
        _meet(group, place)
        began = time.perf_counter()
        run()
        if not launched:
            _finish(place)
        took = time.perf_counter() - began
        seconds = torch.tensor(took, dtype=torch.float64, device=place)
        times.append(float(group.max(seconds)))
    return median(times)


def reset_peak_memory(place: torch.device) -> None:
    """Forget what a GPU held at most so far."""
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)


def peak_gpu_memory(group: SequenceGroup, place: torch.device) -> dict[str, float]:
    """The most MiB in use on the fullest GPU, as a part of a row; nothing on a CPU."""
    if place.type != "cuda":
        return {}
    held = torch.tensor(torch.cuda.max_memory_allocated(place), dtype=torch.int64, device=place)
    return {"peak_memory_mib": float(group.max(held)) / 2**20}


def _serve(
    rank: int,
    count: int,
    device: str,
    folder: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """What a rank does: join the others, work, leave its result in the folder."""
    if device == "cuda":
        place = torch.device("cuda", rank)
        torch.cuda.set_device(place)
    else:
        place = torch.device(device)
        torch.set_num_threads(1)
    dist.init_process_group(
        BACKENDS[device],
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=count,
        timeout=TIMEOUT,
        device_id=place if device == "cuda" else None,
    )
    everyone = dist.group.WORLD
    assert everyone is not None, "the process group was made above"
    try:
        answer = function(SequenceGroup.of(everyone), place, *arguments)
    except AssertionError as error:
        (folder / f"wrong_{rank}").write_text(str(error))
        raise
    torch.save(answer, _answer(folder, rank))
    dist.destroy_process_group()


def _answer(folder: Path, rank: int) -> Path:
    return folder / f"answer_{rank}.pt"


def _meet(group: SequenceGroup, place: torch.device) -> None:
    """Return when every rank has come here."""
    group.sum(torch.zeros((), dtype=torch.float32, device=place))
    _finish(place)


def _finish(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
