"""Adapter: small matrices for linears of a model, and differences of its other parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.checks import real
from longlive_core.frozen_linear import FrozenLinear
from longlive_core.names import few
from longlive_models.lora_config import MOST_ALPHA


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrices:
    """The two matrices of a linear: they add ``alpha / rank * up @ down`` to its weight."""

    down: Float[Tensor, "rank in"]
    up: Float[Tensor, "out rank"]
    alpha: float

    def __post_init__(self) -> None:
        why = "the product of an adapter's matrices is scaled by alpha / rank."
        alpha = real("alpha", self.alpha, at_least=-MOST_ALPHA, at_most=MOST_ALPHA, why=why)
        object.__setattr__(self, "alpha", alpha)

    @property
    def rank(self) -> int:
        """The inner width of the two."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor of their product."""
        return self.alpha / self.rank


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """An adapter of any layout, under the names of the model.

    Attributes:
        matrices: by the name of a linear.
        differences: by the name of a parameter, what is added to it.
        layout: how the file that it comes from was laid out.
    """

    matrices: Mapping[str, Matrices]
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    layout: str = "peft"

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of its matrices, each once, ascending."""
        return tuple(sorted({one.rank for one in self.matrices.values()}))

    def require_fit(self, model: nn.Module) -> None:
        """Raise ValueError unless every linear and parameter is in ``model``, with these sizes.

        The model may be on "meta"; its linears may be packed, or have adapters already.
        """
        linears = linears_of(model)
        strangers = [name for name in self.matrices if name not in linears]
        if strangers:
            raise ValueError(
                f"it has matrices for {len(strangers)} linears that this {type(model).__name__} "
                f"lacks ({few(strangers)}): it is of another model. Load it into the model that it "
                f"was trained with."
            )
        wrong = [
            f"{name} has {list(one.up.shape)} x {list(one.down.shape)} for a weight of "
            f"{[linears[name].out_features, linears[name].in_features]}"
            for name, one in self.matrices.items()
            if (one.up.shape[0], one.down.shape[1])
            != (linears[name].out_features, linears[name].in_features)
        ]
        if wrong:
            raise ValueError(
                f"{len(wrong)} of its pairs of matrices do not fit ({few(wrong, 2)}): it is of a "
                f"model of another size. Load it into the model that it was trained with."
            )
        for name, difference in self.differences.items():
            _require_parameter(model, name, difference)


def linears_of(model: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a model by name, those inside of adapters under the adapter's name."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith((".lora_A", ".lora_B"))
    }


def find_parameter(model: nn.Module, name: str) -> tuple[nn.Module, str] | None:
    """The module that holds a parameter and what it calls it; None if the model has none."""
    holder, _, own = name.rpartition(".")
    for place in (f"{holder}.base_layer", holder):
        try:
            module = model.get_submodule(place)
        except AttributeError:
            continue
        if own in dict(module.named_parameters(recurse=False)) or isinstance(module, FrozenLinear):
            return module, own
    return None


def _require_parameter(model: nn.Module, name: str, difference: Tensor) -> None:
    """Raise ValueError where a difference cannot be added to a parameter."""
    found = find_parameter(model, name)
    if found is None:
        raise ValueError(
            f"it changes {name}, which this {type(model).__name__} lacks: it is of another model. "
            f"Load it into the model that it was trained with."
        )
    module, own = found
    if isinstance(module, FrozenLinear) and own == "weight":
        raise ValueError(
            f"it adds a difference to {name}, which is packed here: rounding the sum again would "
            f"change every value. Run the model with plain weights (weights='bf16')."
        )
    parameter = module.get_parameter(own)
    if parameter.shape != difference.shape:
        raise ValueError(
            f"its difference of {name} has the shape {list(difference.shape)}, and the parameter "
            f"{list(parameter.shape)}: it is of a model of another size. Load it into the model "
            f"that it was trained with."
        )


def require_floats(name: str, tensor: Tensor, dims: int | None) -> None:
    """Raise ValueError for a tensor that holds no floating-point numbers, or of another shape."""
    if not tensor.is_floating_point() or (dims is not None and tensor.ndim != dims):
        what = f"{tensor.dtype} {list(tensor.shape)}"
        raise ValueError(
            f"{name} is {what}, and an adapter has matrices of floating-point numbers for linears: "
            f"those of convolutions and packed ones are not read."
        )


def as_float(x: Tensor) -> Tensor:
    """The numbers in float32 on their device."""
    return x.detach().to(torch.float32)
