"""How many bytes of tensors are alive, at most, while something runs on a CPU."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed.

    Attributes:
        now: bytes that are alive of those made since it was entered.
        peak: the most of them at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self._count(leaf.untyped_storage(), tree_leaves((args, kwargs)))
        return result

    def _count(self, storage: Any, inputs: list[Any]) -> None:
        place = storage.data_ptr()
        given = {one.untyped_storage().data_ptr() for one in inputs if isinstance(one, Tensor)}
        if not place or place in self._known or place in given:
            return
        self._known.add(place)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size
