"""Moving a module's weights from mapped files to a GPU, through page-locked memory.

``Module.to`` copies one weight after another, through the driver's own small buffers and on one
thread. Here several threads copy pieces of the mapped files into page-locked buffers, from which
the GPU fetches them meanwhile; types are converted on the GPU. The memory that is needed on the
host is that of the buffers, besides the pages of files that the system keeps anyway.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PIECE = 16 << 20
"""The bytes of a page-locked buffer, and the most of one copy."""

THREADS = 8
"""The most threads that copy; each has two buffers."""

GROUP = 1 << 30
"""About how many bytes are on the GPU in their stored type before they are converted."""

Convert = Callable[[Tensor], Tensor]


def move_weights(module: nn.Module, device: torch.device, convert: Convert) -> None:
    """Move the parameters and buffers of a module that are on the CPU to a device, in place.

    Weights of one file are moved in the order in which they lie there, so that a file of several
    is read once, and is no longer held when its last weight has been moved.

    Args:
        module: the module; what is on another device already stays as it is.
        device: the device to move to.
        convert: a function that is called with each weight on the device and returns it in the
            type that it is to have.
    """
    places = sorted(_on_cpu(module), key=lambda place: place[0].data_ptr())
    copier = _Copier(device)
    while places:
        size, count = 0, 0
        while count < len(places) and (count == 0 or size + places[count][0].nbytes <= GROUP):
            size += places[count][0].nbytes
            count += 1
        group, places = places[:count], places[count:]
        moved = copier.copy([tensor for tensor, _ in group])
        for (_, put), tensor in zip(group, moved, strict=True):
            put(convert(tensor))
        del group


def _on_cpu(module: nn.Module) -> Iterator[tuple[Tensor, Callable[[Tensor], None]]]:
    """Each tensor of a module that is on the CPU, once, with what puts another in its place."""
    for parameter in module.parameters():
        if parameter.device.type == "cpu":
            yield parameter.detach(), _setter(parameter, "data")
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.device.type == "cpu":
                yield buffer.detach(), _setter(part, name)


def _setter(owner: Any, name: str) -> Callable[[Tensor], None]:
    return lambda tensor: setattr(owner, name, tensor)


class _Copier:
    """Copies tensors from the CPU to a device with several threads; see ``move_weights``."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.threads = max(1, min(THREADS, (os.cpu_count() or 2) // 2))
        self._buffers: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(2 * self.threads):
            self._buffers.put(_Buffer(device))

    @torch.no_grad()
    def copy(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The same values on the device; they are there when later work on the device runs."""
        sources = [tensor.contiguous() for tensor in tensors]
        targets = [torch.empty_like(source, device=self.device) for source in sources]
        pieces = [
            (_bytes(source)[start : start + PIECE], _bytes(target)[start : start + PIECE])
            for source, target in zip(sources, targets, strict=True)
            for start in range(0, source.nbytes, PIECE)
        ]
        ready = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None

        def copy_piece(piece: tuple[Tensor, Tensor]) -> None:
            buffer = self._buffers.get()
            try:
                buffer.copy(*piece, after=ready)
            finally:
                self._buffers.put(buffer)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(copy_piece, pieces))
        if self.on_gpu:
            buffers = [self._buffers.get() for _ in range(2 * self.threads)]
            for buffer in buffers:
                buffer.finish()
                self._buffers.put(buffer)
        return targets


class _Buffer:
    """A page-locked buffer with a CUDA stream that empties it; plain memory for other devices."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.memory = torch.empty(PIECE, dtype=torch.uint8, device="cpu", pin_memory=on_gpu)
        self.stream = torch.cuda.Stream(device) if on_gpu else None

    @torch.no_grad()
    def copy(self, source: Tensor, target: Tensor, after: Any) -> None:
        """Copy bytes: into the buffer at once, from there when ``after`` has happened."""
        if self.stream is not None:
            self.stream.synchronize()  # what it held before has left
            self.stream.wait_event(after)
        held = self.memory[: source.numel()]
        np.copyto(held.numpy(), source.numpy())
        on_stream: AbstractContextManager[Any] = (
            nullcontext() if self.stream is None else torch.cuda.stream(self.stream)
        )
        with on_stream:
            target.copy_(held, non_blocking=True)

    def finish(self) -> None:
        """Let later work of the device's current stream wait for what is on the way."""
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
