"""BlockOffload: blocks that wait in host memory and visit a device one after another.

While a block computes, the next one is copied to the device on a stream of its own. The device
holds two blocks, whatever their number, and computes what it would compute if it held them all:
the bits of a block do not depend on where it waits. A pass takes as long as before where copying a
block takes less time than computing one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from longlive_core.checks import switch

ALIGNMENT = 256
"""Bytes to which tensors are aligned in a buffer, as torch's allocator aligns them."""

PIECE = 1 << 30
"""The most bytes that are page-locked at once, unless a tensor is larger."""

SLOTS = 2
"""How many blocks are on the device: the one that computes, and the next."""


@runtime_checkable
class CopyLane(Protocol):
    """Where copies to the device run. A mark is a moment of a stream, which others can wait for."""

    def mark(self) -> Any:
        """This moment of the stream that computes."""

    def copy(self, copies: Callable[[], None], after: Any) -> Any:
        """Run ``copies`` once ``after`` is over; returns the moment when they are done."""

    def wait(self, mark: Any) -> None:
        """Let what is computed from now on wait for a moment."""


class AtOnce:
    """Copies at once, on the thread that asks: for devices without streams."""

    def mark(self) -> None:
        """Nothing is to be waited for."""

    def copy(self, copies: Callable[[], None], after: None) -> None:
        """Run ``copies``."""
        copies()

    def wait(self, mark: None) -> None:
        """What was asked for is done."""


class SideStream:
    """Copies on a CUDA stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def mark(self) -> torch.cuda.Event:
        """The work that was launched so far on the current stream."""
        return torch.cuda.current_stream(self.device).record_event()

    def copy(self, copies: Callable[[], None], after: torch.cuda.Event) -> torch.cuda.Event:
        """Launch ``copies``, which begin when ``after`` is over."""
        self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            copies()
            return self._stream.record_event()

    def wait(self, mark: torch.cuda.Event) -> None:
        """Let the current stream wait for a moment."""
        torch.cuda.current_stream(self.device).wait_event(mark)


class BlockOffload:
    """Keeps blocks in host memory, and has each on the device while it runs, in their order.

    A block is there during its ``forward`` and within ``visit``; at other times its parameters and
    buffers are the ones in host memory. Blocks are frozen: what is written to a weight may be lost.

    Args:
        blocks: modules that run one after another, on whatever device; changed in place.
        device: the device that they run on.
        page_locked: copy the weights to page-locked memory, from which a GPU fetches them while it
            computes. Without it they stay where they are, such as in mapped files, and the host
            waits for copies.
        again: whether block 0 follows the last one: it is then fetched early, and the device keeps
            its two places. Without it they are given back after the last block.
        lane: where copies run; a stream of their own on a GPU.

    Raises:
        ValueError: there are no blocks.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        device: torch.device,
        *,
        page_locked: bool = True,
        again: bool = True,
        lane: CopyLane | None = None,
    ) -> None:
        if not blocks:
            raise ValueError("there are no blocks to offload: pass one or more modules.")
        switch("page_locked", page_locked, why="True copies weights to page-locked memory.")
        switch("again", again, why="True fetches block 0 after the last one.")
        on_gpu = device.type == "cuda"
        self.device = device
        self._again = again
        self._lane: CopyLane = lane or (SideStream(device) if on_gpu else AtOnce())
        self._blocks = [_Block(block) for block in blocks]
        if page_locked:
            _to_page_locked(self._blocks, pin=on_gpu)
        else:
            for block in self._blocks:
                block.stay()
        self._size = max(block.bytes for block in self._blocks)
        self._slots: list[_Slot] = []
        self._hooks: list[RemovableHandle] = []
        for number, module in enumerate(blocks):
            enter, leave = partial(_call, self.enter, number), partial(_call, self.leave, number)
            self._hooks.append(module.register_forward_pre_hook(enter))
            self._hooks.append(module.register_forward_hook(leave, always_call=True))

    @property
    def device_bytes(self) -> int:
        """The most bytes that blocks take on the device."""
        return min(SLOTS, len(self._blocks)) * self._size

    @contextmanager
    def visit(self, number: int) -> Iterator[None]:
        """Within it a block is on the device: for what is not its ``forward``."""
        self.enter(number)
        try:
            yield
        finally:
            self.leave(number)

    def end(self) -> None:
        """Leave the blocks in host memory for good: they visit the device no more."""
        for hook in self._hooks:
            hook.remove()
        for slot in self._slots:  # a copy that is under way would write to memory given back
            if slot.ready is not None:
                self._lane.wait(slot.ready)
        self._slots = []

    def enter(self, number: int) -> None:
        """Put a block on the device, and begin to fetch the next one."""
        if not self._slots:
            self._slots = [self._slot() for _ in range(min(SLOTS, len(self._blocks)))]
        slot = self._holding(number) or self._fetch(number, self._slots[0])
        self._lane.wait(slot.ready)
        self._blocks[number].show(slot.buffer)
        after = number + 1
        if after == len(self._blocks):
            after = 0 if self._again else number
        if self._holding(after) is None:
            self._fetch(after, next(other for other in self._slots if other is not slot))

    def leave(self, number: int) -> None:
        """Give the block its weights in host memory again; its place becomes free."""
        self._blocks[number].show(None)
        if (slot := self._holding(number)) is not None:
            slot.free = self._lane.mark()
        if number == len(self._blocks) - 1 and not self._again:
            self._slots = []

    def _slot(self) -> "_Slot":
        buffer = torch.empty(self._size, dtype=torch.uint8, device=self.device)
        return _Slot(buffer, self._lane.mark())

    def _holding(self, number: int) -> "_Slot | None":
        return next((slot for slot in self._slots if slot.block == number), None)

    def _fetch(self, number: int, slot: "_Slot") -> "_Slot":
        slot.block = number
        copies = partial(self._blocks[number].copy_to, slot.buffer)
        slot.ready = self._lane.copy(copies, slot.free)
        return slot


class _Slot:
    """A place for a block on the device.

    ``free`` is when the block that was there has computed, ``ready`` when the new one is there.
    """

    def __init__(self, buffer: Tensor, free: Any) -> None:
        self.buffer = buffer
        self.block: int | None = None
        self.free = free
        self.ready: Any = None


class _Block:
    """The tensors of a block: where they belong, and those in host memory."""

    def __init__(self, module: nn.Module) -> None:
        self._puts = [put for _, put in _tensors(module)]
        self.host = [tensor.detach() for tensor, _ in _tensors(module)]
        self._places: list[int] = []
        self.bytes = 0
        for tensor in self.host:
            self._places.append(self.bytes)
            self.bytes += _aligned(tensor.nbytes)

    def stay(self) -> None:
        """Take the tensors as they are, on the CPU and contiguous, for those in host memory."""
        self.host = [tensor.cpu().contiguous() for tensor in self.host]
        self.show(None)

    def show(self, buffer: Tensor | None) -> None:
        """Let the module have its tensors in a buffer, or those in host memory."""
        tensors = self.host if buffer is None else self._in(buffer)
        for put, tensor in zip(self._puts, tensors, strict=True):
            put(tensor)

    def copy_to(self, buffer: Tensor) -> None:
        """Copy the tensors to a buffer."""
        for target, source in zip(self._in(buffer), self.host, strict=True):
            target.copy_(source, non_blocking=True)

    def _in(self, buffer: Tensor) -> list[Tensor]:
        return [
            _cut(buffer, place, tensor)
            for place, tensor in zip(self._places, self.host, strict=True)
        ]


def _cut(buffer: Tensor, place: int, like: Tensor) -> Tensor:
    """The bytes of a buffer from ``place`` on, as a tensor of the type and shape of another."""
    return buffer[place : place + like.nbytes].view(like.dtype).view(like.shape)


def _to_page_locked(blocks: list[_Block], *, pin: bool) -> None:
    """Copy the tensors of blocks to page-locked memory, block after block.

    Torch rounds what it page-locks up to a power of two, so it is taken in pieces of that size.
    """
    rest = sum(block.bytes for block in blocks)
    piece, used = torch.empty(0, dtype=torch.uint8, device="cpu"), 0
    for block in blocks:
        for number, tensor in enumerate(block.host):
            size = _aligned(tensor.nbytes)
            if used + size > len(piece):
                length = 1 << (max(size, min(rest, PIECE)) - 1).bit_length()
                piece = torch.empty(length, dtype=torch.uint8, device="cpu", pin_memory=pin)
                used = 0
            block.host[number] = _cut(piece, used, tensor)
            block.host[number].copy_(tensor)
            used, rest = used + size, rest - size
        block.show(None)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _tensors(module: nn.Module) -> list[tuple[Tensor, Callable[[Tensor], None]]]:
    """The parameters and buffers of a module, each once, with what puts others in their places."""
    found: list[tuple[Tensor, Callable[[Tensor], None]]] = []
    for parameter in module.parameters():
        found.append((parameter, partial(setattr, parameter, "data")))
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            found.append((buffer, partial(setattr, part, name)))
    return found


def _call(method: Callable[[int], None], number: int, *_: Any) -> None:
    """What a hook of a module calls: a method, with the block's number alone."""
    method(number)
