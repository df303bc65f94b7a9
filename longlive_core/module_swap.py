"""Swap the linears of any model for another kind, and say what was swapped, what was kept, and why.

What is kept is named by patterns and functions, and read off the model's structure:
``longlive_core.keep_rules`` says how.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor, nn

from longlive_core.backends import Receipt
from longlive_core.checks import function, instance
from longlive_core.frozen_linear import FrozenLinear
from longlive_core.keep_rules import ENDS as ENDS
from longlive_core.keep_rules import KEEP as KEEP
from longlive_core.keep_rules import Ends, keep_rules, refuse_unmatched, why_kept
from longlive_core.keep_rules import Keep as Keep
from longlive_core.keep_rules import matches as matches
from longlive_core.names import few
from longlive_core.saved_config import note_in_config as note_in_config
from longlive_core.tensor_checks import check_model, present


@runtime_checkable
class HasReceipt(Protocol):
    """A layer that reports which backends its operations take on its device."""

    def receipts(self) -> tuple[Receipt, ...]:
        """One for each operation of the layer."""


def receipts(model: nn.Module) -> dict[str, tuple[Receipt, ...]]:
    """The receipts of every layer of ``model`` that has some, by the layer's name."""
    check_model(model)
    return {
        name: module.receipts()
        for name, module in model.named_modules()
        if isinstance(module, HasReceipt)
    }


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """Which linears a conversion replaced and kept, and the model's size before and after.

    Attributes:
        swapped: names of the linears that were replaced.
        kept: names of those that were not, each with the reason.
        bytes_before, bytes_after: parameters and buffers of the whole model.
    """

    swapped: tuple[str, ...]
    kept: Mapping[str, str]
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        head = (
            f"{len(self.swapped)} linear{'' if len(self.swapped) == 1 else 's'} swapped, "
            f"{len(self.kept)} kept; "
            f"{self.bytes_before:,} bytes before, {self.bytes_after:,} after"
        )
        by_reason = defaultdict(list)
        for name, reason in self.kept.items():
            by_reason[reason].append(name)
        lines = [f"  kept, {reason}: {few(names)}" for reason, names in by_reason.items()]
        return "\n".join([head, *lines])


@dataclass(frozen=True, kw_only=True)
class SwapPlan:
    """Which linears of a model would be replaced, and why the others would not."""

    swapped: tuple[str, ...]
    kept: Mapping[str, str]


def plan_swap(
    model: nn.Module,
    *,
    kinds: tuple[type[nn.Module], ...],
    why_keep: Callable[[nn.Module], str | None],
    keep: Keep = KEEP,
) -> SwapPlan:
    """Decide for every linear; changes nothing and reads no weight (a model on ``meta`` will do).

    ``kinds`` are the exact types that can be replaced: a subclass may compute something else.
    ``why_keep`` gives the reason why one cannot be, or None. A linear that is packed already is
    none to decide about, unless its type is one of ``kinds``. Raises ValueError for a pattern that
    names nothing, unless it is one of ``KEEP``.
    """
    check_model(model)
    function("plan_swap's why_keep", why_keep, why="it says of a linear why it stays, or None.")
    rules = keep_rules(keep)
    shared = _shared_weights(model)
    ends = ENDS.kept(model) if any(isinstance(rule, Ends) for rule in rules) else {}
    swapped, kept = [], {}
    for name, module in model.named_modules(remove_duplicate=False):
        known = type(module) in kinds
        if not known and (isinstance(module, FrozenLinear) or not isinstance(module, nn.Linear)):
            continue
        if (reason := why_kept(rules, name, module)) is not None:
            kept[name] = reason
        elif not known:
            kept[name] = f"it is a {type(module).__name__}, which may compute something else"
        elif name in shared:
            kept[name] = f"its weight is shared with {shared[name]}"
        elif (reason := why_keep(module)) is not None:
            kept[name] = reason
        elif name in ends:
            kept[name] = ends[name]
        else:
            swapped.append(name)
    refuse_unmatched(model, rules)
    return SwapPlan(swapped=tuple(swapped), kept=kept)


def swap_linears(
    model: nn.Module, make: Callable[[nn.Module], nn.Module], plan: SwapPlan
) -> ConversionReport:
    """Replace what ``plan`` names by what ``make`` returns for it, in place, one at a time.

    A module that stands under two names is made once and put under both. A model of Diffusers or
    Transformers says in its config which layers are packed: ``longlive_core.saved_config``.
    """
    check_model(model)
    function("swap_linears' make", make, why="it gives the layer that takes a linear's place.")
    instance("swap_linears' plan", plan, SwapPlan, why="plan_swap gives one.")
    if "" in plan.swapped:
        raise ValueError(
            "the model to convert is a single linear, which has no place to be swapped in: make "
            "the quantized layer of it directly, or pass the module that holds it."
        )
    before = module_bytes(model)
    places: dict[int, list[str]] = defaultdict(list)
    for name in plan.swapped:
        places[id(model.get_submodule(name))].append(name)
    for names in places.values():  # nothing holds a layer once it is replaced
        made = _made(model.get_submodule(names[0]), make)
        for name in names:
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, made)
    note_in_config(model)
    return ConversionReport(
        swapped=plan.swapped,
        kept=plan.kept,
        bytes_before=before,
        bytes_after=module_bytes(model),
    )


def features(layer: str, x: Shaped[Tensor, "..."], width: int) -> None:
    """Raise ``ValueError`` unless the last dimension of ``x`` is as wide as the layer's weight."""
    present(f"what {layer} multiplies", x, why=f"it is rows of {width} numbers.")
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(
            f"{layer} multiplies rows of {width} numbers, got a tensor of shape {tuple(x.shape)}: "
            f"the last dimension must be {width}. Is it the input of another layer?"
        )


def _made(old: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return make(old).train(old.training)


def module_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers of a model, shared ones once."""
    check_model(model)
    tensors: dict[int, Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """Of each module whose weight another module has too, that other module's name."""
    holders = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if key == "weight":
                holders[id(parameter)].append(name)
    return {
        name: next(other for other in names if other != name)
        for names in holders.values()
        for name in names
        if len(names) > 1
    }
