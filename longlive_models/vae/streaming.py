"""The state of causal layers between calls: the frames before, as plain tensors."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "batch _ _ _ _"]
"""[batch, channels, frames, height, width], channels-last in memory."""
Rows = Float[Tensor, "batch _ _ _ _"]
"""[batch, frames, height, width, channels], contiguous."""


def rows(x: Features) -> Rows:
    """The features with their channels in the last dimension: a view."""
    return x.permute(0, 2, 3, 4, 1)


def features(x: Rows) -> Features:
    """The inverse of ``rows``."""
    return x.permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class StreamState:
    """The state of an encoder or decoder between calls: the last frames of each causal layer.

    ``history`` has them in the layers' order, [batch, frames, height, width, channels], contiguous.
    They are never changed in place, so an earlier state can be kept to continue from it, unless it
    was spent. ``owned`` says that nothing else has these tensors, so that a call that spends the
    state may write the next one over it; ``share`` makes another state of the same tensors.
    """

    history: tuple[Tensor, ...]
    owned: bool = field(default=False, compare=False, repr=False)

    def share(self) -> "StreamState":
        """Another state of the same history: neither's is written over when it is spent."""
        object.__setattr__(self, "owned", False)
        return StreamState(self.history)

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors themselves in a flat dict, as safetensors stores them.

        Those of ``share()`` stay as they are when this state is spent.
        """
        return {f"history.{i}": frames for i, frames in enumerate(self.history)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "StreamState":
        """The state that ``to_tensors`` gave. Raises ValueError if an entry is missing."""
        names = [f"history.{i}" for i in range(len(tensors))]
        if set(names) != set(tensors):
            raise ValueError(
                f"a stream's state has entries history.0 to history.{len(names) - 1}, got "
                f"{sorted(tensors)}: they are read by number. Pass what to_tensors() returned."
            )
        return cls(tuple(tensors[name] for name in names))

    def to(self, device: torch.device) -> "StreamState":
        """The state on a device; where that is its own, both share their tensors."""
        return StreamState(tuple(frames.to(device) for frames in self.share().history))

    def spend(self) -> list[Tensor]:
        """The history, which nothing else holds from now on through this state: it is empty."""
        history = list(self.history)
        object.__setattr__(self, "history", ())
        return history

    @property
    def bytes(self) -> int:
        """How many bytes of memory the state takes."""
        return sum(frames.nbytes for frames in self.history)


class History:
    """Gives each causal layer its past frames during one forward, and collects the new ones.

    Layers ask in the order in which they run, each once. Without a past (``past=None``) the input
    is a video's first frame, which layers treat in a special way. ``record=False`` collects
    nothing, for the last call. A layer's past is let go of when the layer has taken it, so that its
    memory is free for what follows, unless someone else holds it. ``owned`` says that nobody does,
    so the new past may be written over it.
    """

    def __init__(
        self, past: Sequence[Tensor] | None, *, record: bool = True, owned: bool = False
    ) -> None:
        self.first = past is None
        self.record = record
        self.owned = owned
        self.new: list[Tensor] = []
        self._past = deque(past or ())

    def take(self) -> Rows:
        """The past frames of the layer that asks."""
        return self._past.popleft()

    def rest(self) -> list[Tensor]:
        """The past frames of all layers that have not asked; they are let go of."""
        rest = list(self._past)
        self._past.clear()
        return rest

    def keep(self, frames: Rows) -> None:
        """Collect a layer's new past, which nothing else will change; if it is recorded."""
        if self.record:
            self.new.append(frames)

    def start(self, frames: Features) -> None:
        """Record a layer's past after the first frame."""
        assert self.first
        if self.record:
            self.keep(rows(frames).contiguous())

    def extend(self, x: Features) -> Features:
        """``x`` with the layer's past frames before it."""
        assert not self.first
        past = self.take()
        extended = torch.cat([past.to(x.dtype), rows(x)], 1)
        if self.record:
            self.keep(extended[:, -past.shape[1] :].clone())
        return features(extended)
