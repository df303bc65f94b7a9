"""FrozenLinear: a linear whose packed weight answers what other libraries ask of a weight.

Adapters, savers and casts look for ``nn.Linear`` and read its ``weight``: the type that it computes
in, its sizes, its values. A packed linear is one, and its weight answers, decoded where values are
asked for. What would write into the weight is refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class FrozenWeight(ABC):
    """What is asked of a weight, answered for one that is packed.

    A packed weight of a format inherits it beside its tensors and gives ``shape``, ``device`` and
    ``decoded``.
    """

    dtype: torch.dtype = torch.float32
    """The type that its layer works in: adapters beside it take it, and ``data`` has it."""
    requires_grad = False
    grad = None
    shape: Any
    device: Any

    @abstractmethod
    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The values, rounded once to ``dtype``."""

    @property
    def data(self) -> Tensor:
        """The values in ``dtype``, [out, in]: decoded anew each time, and no part of the layer."""
        return self.decoded(self.dtype)

    @data.setter
    def data(self, values: Tensor) -> None:
        raise ValueError(
            "a packed weight cannot be written to, so nothing can be merged into it: rounding the "
            "sum again would change every value. Turn the model into plain linears "
            "(decode_linears), merge into those, and convert it again."
        )

    def to(self, target: torch.dtype | torch.device | str, *, non_blocking: bool = False) -> Any:
        """The values as a tensor of another type, or in ``dtype`` on another device."""
        if isinstance(target, torch.dtype):
            return self.decoded(target)
        return self.data.to(target, non_blocking=non_blocking)

    def float(self) -> Tensor:
        """The values in float32."""
        return self.decoded(torch.float32)

    @property
    def ndim(self) -> int:
        """Two: rows are outputs, columns inputs."""
        return len(self.shape)

    def numel(self) -> int:
        """How many values the weight has, packed or not."""
        return self.shape[0] * self.shape[1]

    def size(self, dim: int | None = None) -> torch.Size | int:
        """The shape, or one of its sizes."""
        return torch.Size(self.shape) if dim is None else self.shape[dim]

    def element_size(self) -> int:
        """Bytes of one value of ``data``."""
        return self.dtype.itemsize


class FrozenLinear(nn.Linear, ABC):
    """An ``nn.Linear`` without a parameter for its weight; subclasses keep it packed in buffers.

    Args:
        in_features, out_features: numbers that a row of the input, or of the output, has.
        dtype: the type that the layer works in, which follows ``to(dtype)`` as a weight would;
            torch's default if not given. Packed bits do not change with it.
    """

    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.working_dtype = torch.get_default_dtype() if dtype is None else dtype

    def reset_parameters(self) -> None:
        """Raise ValueError: a packed weight is loaded or converted, never drawn."""
        raise ValueError(
            f"a {type(self).__name__} has no weight that could be drawn anew: make one of a plain "
            f"linear (from_linear), or load one."
        )

    @abstractmethod
    def stored_form(self) -> dict[str, Any]:
        """What a model's config says of this layer, so that it can be made again and filled."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenLinear":
        self.working_dtype = fn(torch.empty(0, dtype=self.working_dtype, device="cpu")).dtype
        super()._apply(fn, recurse)
        return self
