"""TrainingLinear: what linears that train on rounded operands have in common, whatever the format.

Both formats have a master weight that the optimizer moves, three products of which each may be
rounded, and autocast's type for the rest. How an operand is rounded is the format's own.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from longlive_core.checks import instance, whole

ReduceAmax = Callable[[Tensor], Tensor]
"""Makes the largest magnitudes of one rank those of all ranks that hold a part of the same."""


@runtime_checkable
class Products(Protocol):
    """Of a config, which of the three products have rounded operands."""

    @property
    def forward(self) -> bool: ...

    @property
    def input_gradient(self) -> bool: ...

    @property
    def weight_gradient(self) -> bool: ...


Config = TypeVar("Config", bound=Products)
Layer = TypeVar("Layer", bound="TrainingLinear[Any]")


class TrainingLinear(nn.Linear, Generic[Config]):
    """A linear with a master weight whose products run on rounded operands.

    A format inherits it, names itself and its config, and gives ``forward`` and ``receipts``.

    Attributes:
        numbers: the format's name.
        config_type: the class of its configs; one without arguments is the default.
        config: which products are rounded, and how.
        reduce_amax: makes one magnitude of those of several ranks, or None.

    Raises:
        ValueError: sizes that are no counts, or a config of another kind.
    """

    numbers: ClassVar[str]
    config_type: ClassVar[type]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        config: Config | None = None,
        reduce_amax: ReduceAmax | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            whole(name, size, at_least=0, why="It is how many numbers a row has.")
        kind = self.config_type
        config = kind() if config is None else config
        why = "it says which products are rounded. Leave it out for all three."
        instance(f"{type(self).__name__}'s config", config, kind, why=why)
        self.check_sizes(in_features, out_features)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.config = config
        self.reduce_amax = reduce_amax

    def check_sizes(self, in_features: int, out_features: int) -> None:
        """Raise ValueError for a weight that the format cannot train; here for none."""

    @classmethod
    def from_linear(
        cls: type[Layer],
        linear: nn.Linear,
        config: Products | None = None,
        *,
        reduce_amax: ReduceAmax | None = None,
    ) -> Layer:
        """The layer that trains this linear's own parameters."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            bias=False,
            config=config,
            reduce_amax=reduce_amax,
            device="meta",
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def extra_repr(self) -> str:
        config = self.config
        products = {
            "forward": config.forward,
            "input_gradient": config.input_gradient,
            "weight_gradient": config.weight_gradient,
        }
        named = ", ".join(name for name, quantized in products.items() if quantized)
        return f"{super().extra_repr()}, in {self.numbers}: {named or 'nothing'}"


def computed_in(x: Tensor) -> torch.dtype:
    """The type that a product of ``x`` is computed in: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
