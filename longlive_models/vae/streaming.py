"""The past that causal layers need, carried from call to call as plain tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

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
    """Where a stream stands: for each causal layer, in order, the last frames that it has seen.

    ``history`` holds them as [batch, frames, height, width, channels], contiguous.
    Nothing in it is changed in place: keeping an earlier state and going on from it is a rewind.
    """

    history: tuple[Tensor, ...]

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dict, as safetensors stores it."""
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
        """The state on a device."""
        return StreamState(tuple(frames.to(device) for frames in self.history))

    @property
    def bytes(self) -> int:
        """Memory that the state holds."""
        return sum(frames.nbytes for frames in self.history)


class History:
    """Hands each causal layer its past during one forward, and collects the new one.

    Layers ask in the order in which they run. Without a past (``past=None``) the call is a
    video's first frame; layers then do what is special about it. ``record=False`` skips the
    collection, for a call that nothing follows.
    """

    def __init__(self, past: tuple[Tensor, ...] | None, *, record: bool = True) -> None:
        self.past = past
        self.record = record
        self.new: list[Tensor] = []
        self._next = 0

    @property
    def first(self) -> bool:
        """Whether this call is the first frame of a video."""
        return self.past is None

    def start(self, frames: Features) -> None:
        """Note what the layer remembers of the first frame."""
        assert self.past is None
        if self.record:
            self.new.append(rows(frames).contiguous())

    def extend(self, x: Features) -> Features:
        """``x`` with the layer's past frames before it."""
        assert self.past is not None
        past = self.past[self._next]
        self._next += 1
        extended = torch.cat([past.to(x.dtype), rows(x)], 1)
        if self.record:
            self.new.append(extended[:, -past.shape[1] :].clone())
        return features(extended)
