"""A ring of pinned memory, through which frames come from a GPU without anyone waiting."""

import threading
from collections import deque

import torch
from jaxtyping import Shaped
from torch import Tensor

from longlive_core.checks import whole

Frames = Shaped[Tensor, "..."]


class HostCopy:
    """Frames on their way to the CPU. May be taken from any thread, and again."""

    def __init__(self, ring: "HostRing", memory: Tensor, frames: Tensor) -> None:
        self._ring = ring
        self._memory: Tensor | None = memory
        self._landing = memory[: frames.nbytes].view(frames.dtype).view(frames.shape)
        self._landing.copy_(frames, non_blocking=True)
        self._landed: torch.cuda.Event | None = None
        if frames.device.type == "cuda":
            self._landed = torch.cuda.Event()
            self._landed.record(torch.cuda.current_stream(frames.device))
        self._frames: Tensor | None = None
        self._lock = threading.Lock()

    def take(self) -> Frames:
        """The frames in memory of their own, which stay as they are; waits for their copy."""
        with self._lock:
            if self._frames is None:
                if self._landed is not None:
                    self._landed.synchronize()
                self._frames = self._landing.clone(memory_format=torch.contiguous_format)
            memory, self._memory = self._memory, None
        if memory is not None:
            self._ring.give_back(self, memory)
        return self._frames


class HostRing:
    """A few pieces of pinned memory that copies from a GPU take in turns.

    However many frames are made or held, no more than these pieces are pinned: who takes frames
    gets them in ordinary memory. If all pieces are in use, the oldest copy is taken out of its own
    first, so nobody waits for whoever takes the frames.

    Args:
        slots: how many pieces there are.
        device: whose frames are copied; from the CPU nothing is pinned, and copies end at once.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self._slots = whole(
            "HostRing's slots", slots, at_least=1, why="a copy needs one. Use 2 or more."
        )
        self._pinned = device.type == "cuda"
        self._made = 0
        self._free: list[Tensor] = []
        self._busy: deque[HostCopy] = deque()
        self._lock, self._starting = threading.Lock(), threading.Lock()

    @property
    def made(self) -> int:
        """How many pieces there are by now: they are made when they are needed first."""
        return self._made

    def start(self, frames: Frames) -> HostCopy:
        """Start a copy on the current stream; ``frames`` may be let go of, not written to."""
        with self._starting:
            copy = HostCopy(self, self._piece(frames.nbytes), frames)
            with self._lock:
                self._busy.append(copy)
        return copy

    def give_back(self, copy: HostCopy, memory: Tensor) -> None:
        """Take back a piece that a copy does not need any more: ``HostCopy`` calls this."""
        with self._lock:
            if copy in self._busy:
                self._busy.remove(copy)
            self._free.append(memory)

    def _piece(self, size: int) -> Tensor:
        """A piece of at least ``size`` bytes, which nothing else uses.

        Copies are started one at a time, so all pieces that are not free are those of copies.
        """
        while True:
            with self._lock:
                if self._free:
                    memory = self._free.pop()
                    break
                if self._made < self._slots:
                    self._made += 1
                    memory = torch.empty(0, dtype=torch.uint8, device="cpu")
                    break
                oldest = self._busy[0]
            oldest.take()
        if memory.nbytes >= size:
            return memory
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=self._pinned)
