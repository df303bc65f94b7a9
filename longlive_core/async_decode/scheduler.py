"""Decode finished blocks while the next one is being denoised."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor

from longlive_core.async_decode.host_copy import start_host_copy
from longlive_core.async_decode.lanes import Lane, LaneClosed, Outcome, Ticket, make_lane
from longlive_core.async_decode.trace import Span
from longlive_core.checks import instance, shown, switch, whole
from longlive_core.tensor_checks import dense

Decode = Callable[[Tensor, Any], tuple[Any, Any]]


class AsyncDecodeScheduler:
    """Runs ``decode`` on a lane, one block after another, and gives frames back in order.

    ::

        with AsyncDecodeScheduler(vae.decode_block, lane="thread", depth=2) as decoder:
            for latents in blocks:
                decoder.submit(latents)       # waits only while ``depth`` blocks are in flight
                yield from decoder.ready()    # whatever is finished by now
            yield from decoder.finish()       # the rest

    ``decode(latents, state) -> (frames, state)`` decodes one block; the scheduler carries the state
    from each block to the next, starting from ``state``. Whatever the lane, the frames are those
    of calling ``decode`` block by block. An error in ``decode`` is raised by the next ``submit``,
    and by ``ready`` and ``finish`` after the frames that were finished before it; later blocks are
    not decoded. It is raised again by every call that follows.

    Args:
        decode: called as ``decode(latents, state)``; returns the block's frames and the next state.
        lane: "inline", "thread", "stream", "device:<device>", or a ``Lane``, which ``close`` ends.
        depth: blocks that may be in flight: submitted and not yet decoded.
        state: where to start; None at the start of a video.
        to_host: bring frames to the CPU within the lane; they must then be one tensor.
    """

    def __init__(
        self,
        decode: Decode,
        *,
        lane: str | Lane = "inline",
        depth: int = 2,
        state: Any = None,
        to_host: bool = False,
    ) -> None:
        depth = whole(
            "AsyncDecodeScheduler's depth",
            depth,
            at_least=1,
            why="at least one block must be in flight for anything to be decoded. Pass 1 or more.",
        )
        if not callable(decode):
            raise ValueError(
                f"AsyncDecodeScheduler's decode is a function of latents and a state, got "
                f"{shown(decode)}: it gives the frames and the next state. Pass vae.decode_block."
            )
        why = "it is where blocks are decoded. Use 'inline', 'thread' or 'stream'."
        instance("AsyncDecodeScheduler's lane", lane, str, Lane, why=why)
        switch("AsyncDecodeScheduler's to_host", to_host, why="True brings frames to the CPU.")
        self._decode = decode
        self._lane = make_lane(lane) if isinstance(lane, str) else lane
        self._depth = depth
        self._to_host = to_host
        self._state = state
        self._broken = False
        self._closed = False
        self._submitted = 0
        self._pending: deque[tuple[int, Ticket]] = deque()
        self._spans: deque[Span] = deque(maxlen=4096)

    @property
    def lane(self) -> str:
        """The name of the lane that decodes."""
        return self._lane.name

    @property
    def in_flight(self) -> int:
        """Blocks submitted and not yet decoded."""
        return sum(not ticket.done() for _, ticket in self._pending)

    @property
    def trace(self) -> tuple[Span, ...]:
        """When the blocks given back so far were decoded; the last 4096."""
        return tuple(self._spans)

    @property
    def state(self) -> Any:
        """The state after every block submitted so far: waits for those in flight.

        Raises the error of ``decode``, if there was one. Frames that are finished stay ready.
        """
        if self._pending:
            self._pending[-1][1].outcome()
        self._raise_errors()
        return self._state

    def submit(self, latents: Float[Tensor, "..."]) -> None:
        """Give the next block's latents; waits only while ``depth`` blocks are in flight.

        The scheduler keeps no copy: do not write into ``latents`` afterwards. Raises ``LaneClosed``
        after ``close``.
        """
        dense("what is submitted", latents, why="it is the latents of one block.")
        if self._closed:
            raise LaneClosed(
                "submit after close(): the lane has ended, so nothing more is decoded. Make "
                "another scheduler; to continue this video, pass it state=scheduler.state."
            )
        if len(self._pending) >= self._depth:
            self._pending[-self._depth][1].outcome()
        self._raise_errors()
        self._pending.append((self._submitted, self._lane.start(self._decode_next, latents)))
        self._submitted += 1

    def ready(self) -> Iterator[Any]:
        """The frames of blocks that are decoded by now, in order; never waits."""
        while self._pending and self._pending[0][1].done():
            yield self._take_first()

    def finish(self) -> Iterator[Any]:
        """The frames of all blocks submitted, in order, waiting for each.

        Raises ``LaneClosed`` at the first block that ``close`` has dropped.
        """
        while self._pending:
            yield self._take_first()

    def close(self) -> None:
        """Close the lane. Blocks not begun are dropped; decoded frames can still be taken."""
        self._closed = True
        self._lane.close()

    def __enter__(self) -> "AsyncDecodeScheduler":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close()
        if kind is None:
            self._raise_errors(dropped=False)

    def _decode_next(self, latents: Tensor) -> Any:
        """What the lane runs. Jobs run one at a time, so the state needs no lock."""
        if self._broken:
            raise RuntimeError("an earlier block was not decoded, so this one has no state")
        try:
            frames, state = _two(self._decode(latents, self._state))
            if self._to_host:
                frames = start_host_copy(_one_tensor(frames))
        except BaseException:
            self._broken = True
            raise
        self._state = state
        return frames

    def _take_first(self) -> Any:
        block, ticket = self._pending[0]
        outcome = ticket.outcome()
        if outcome.error is not None:
            raise outcome.error
        self._pending.popleft()
        self._spans.append(
            Span(block=block, lane=self._lane.name, start=outcome.start, end=outcome.end)
        )
        return outcome.value

    def _raise_errors(self, *, dropped: bool = True) -> None:
        """Raise the first error there is; of blocks that were dropped if that is asked for."""
        for outcome in self._ended():
            is_dropped = isinstance(outcome.error, LaneClosed)
            if outcome.error is not None and (dropped or not is_dropped):
                raise outcome.error

    def _ended(self) -> Iterator[Outcome]:
        return (ticket.outcome() for _, ticket in self._pending if ticket.done())


def _two(decoded: Any) -> tuple[Any, Any]:
    """What ``decode`` returned, if it is frames and a state."""
    if not isinstance(decoded, tuple) or len(decoded) != 2:
        got = (
            f"a tensor of {list(decoded.shape)}" if isinstance(decoded, Tensor) else shown(decoded)
        )
        raise ValueError(
            f"decode returned {got}: it returns the tuple (frames, state), and the next block "
            f"starts from that state. Return (frames, None) if there is none."
        )
    return decoded


def _one_tensor(frames: Any) -> Tensor:
    """The frames, if they can be copied to the CPU in one piece."""
    if not isinstance(frames, Tensor):
        raise ValueError(
            f"decode returned frames of type {type(frames).__name__}, and to_host=True brings one "
            f"tensor to the CPU. Return one tensor, or leave to_host out and copy what you return."
        )
    return frames
