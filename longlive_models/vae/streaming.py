"""The state of causal layers between calls: the frames before, as plain tensors."""

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
    """The state of an encoder or decoder between calls: the last frames of each causal layer.

    ``history`` has them in the layers' order, [batch, frames, height, width, channels], contiguous.
    They are never changed in place, so an earlier state can be kept to continue from it.
    """

    history: tuple[Tensor, ...]

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors in a flat dict, as safetensors stores them."""
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
        """How many bytes of memory the state takes."""
        return sum(frames.nbytes for frames in self.history)


class History:
    """Gives each causal layer its past frames during one forward, and collects the new ones.

    Layers ask in the order in which they run. Without a past (``past=None``) the input is a
    video's first frame, which layers treat in a special way. ``record=False`` collects nothing,
    for the last call.
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
        """Record a layer's past after the first frame."""
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
