"""Functions on real ranks: processes that are joined by gloo on this machine's CPU.

Starting processes takes seconds, so start `Ranks` once and call many functions. A function gets its
rank's process group first. If it raises on one rank, that error is raised here and the others are
ended, whatever they wait for; a rank that dies or does not answer in time is named.
"""

import io
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 120.0  # seconds that ranks may take for one call
GRACE = 5.0  # seconds to hear of the rank at fault once another complains


class RankError(RuntimeError):
    """What went wrong on a rank, with its traceback."""


class Ranks:
    """A number of processes that wait for calls; groups of fewer can be called too.

    They start at the first call, and start anew at the first call after a failure.
    """

    def __init__(self, count: int, timeout: float = TIMEOUT) -> None:
        self.count, self.timeout = count, timeout
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``function(process_group, *arguments)`` on the first ``size`` ranks; their results."""
        assert 1 <= size <= self.count, f"{size} of {self.count} ranks"
        if not self._processes:
            self._start()
        call = _pack((size, function, arguments))
        for pipe in self._pipes[:size]:
            pipe.send_bytes(call)
        try:
            return self._answers(size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meeting = Path(self._folder.name) / "meeting"
        for rank in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self.count, meeting, theirs, self.timeout), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _answers(self, size: int) -> list[Any]:
        answers: dict[int, Any] = {}
        failures: list[RankError] = []
        end = time.monotonic() + self.timeout
        while len(answers) < size:
            waited = {self._pipes[rank]: rank for rank in range(size) if rank not in answers}
            ready = wait(list(waited), timeout=max(0.0, end - time.monotonic()))
            if not ready and not failures:
                names = ", ".join(str(rank) for rank in waited.values())
                raise TimeoutError(f"no answer of rank {names} within {self.timeout} s")
            for pipe in ready:
                rank = waited[pipe]  # type: ignore[index]
                answers[rank], failure = self._answer(rank)
                failures += [failure] if failure else []
            if failures and not (ready and all(map(_is_echo, failures))):
                break
            if failures:  # only echoes so far: the rank at fault speaks soon
                end = min(end, time.monotonic() + GRACE)
        if failures:
            raise min(failures, key=_is_echo)
        return [answers[rank] for rank in range(size)]

    def _answer(self, rank: int) -> tuple[Any, RankError | None]:
        try:
            kind, value = _unpack(self._pipes[rank].recv_bytes())
        except EOFError:
            self._processes[rank].join()
            code = self._processes[rank].exitcode
            return None, RankError(f"rank {rank} died with exit code {code}")
        if kind == "error":
            return None, RankError(f"rank {rank}: {value}")
        return value, None


def _is_echo(error: RankError) -> bool:
    """Whether an error only says that another rank went away."""
    return "Connection closed by peer" in str(error) or "Connection reset" in str(error)


def _serve(rank: int, count: int, meeting: Path, pipe: Connection, timeout: float) -> None:
    """What a rank does: answer calls until it is ended."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=timeout),
    )
    groups = [dist.new_group(list(range(size))) for size in range(1, count + 1)]
    with suppress(EOFError):
        while True:
            size, function, arguments = _unpack(pipe.recv_bytes())
            try:
                torch.manual_seed(0)
                answer = ("value", function(groups[size - 1], *arguments))
            except Exception:
                answer = ("error", traceback.format_exc())
            pipe.send_bytes(_pack(answer))


def _pack(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpack(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)
