"""Swap the linears of any model for another kind, and say what was swapped, what was kept, and why.

What is kept is named by patterns. A pattern is matched, as file names are (``*``, ``?``, ``[ab]``),
with a module's dotted name and with every run of its parts: ``head`` keeps ``head.head``,
``blocks.0`` keeps ``blocks.0.ffn.2`` and not ``blocks.01.ffn.2``, ``norm*`` keeps ``x.norm_q``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from jaxtyping import Shaped
from torch import Tensor, nn

from longlive_core.backends import Receipt
from longlive_core.names import few, nearest

KEEP = (
    "text_embedding",
    "patch_embedding",
    "time_embedding",
    "time_projection",
    "head",
    "norm*",
    "lora_A",
    "lora_B",
)
"""Left as they are unless told otherwise: the ends of LongLive-2.0's transformer, as the original
leaves them, norms, and low-rank adapters. They are a few percent of the bytes and carry much of
the error."""


@runtime_checkable
class HasReceipt(Protocol):
    """A layer that reports which backends its operations take on its device."""

    def receipts(self) -> tuple[Receipt, ...]:
        """One for each operation of the layer."""


def receipts(model: nn.Module) -> dict[str, tuple[Receipt, ...]]:
    """The receipts of every layer of ``model`` that has some, by the layer's name."""
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
    keep: Sequence[str] = KEEP,
) -> SwapPlan:
    """Decide for every linear; changes nothing and reads no weight (a model on ``meta`` will do).

    ``kinds`` are the exact types that can be replaced: a subclass may compute something else.
    ``why_keep`` gives the reason why one cannot be, or None. Raises ValueError for a pattern that
    names nothing, unless it is one of ``KEEP``.
    """
    shared = _shared_weights(model)
    swapped, kept = [], {}
    for name, module in model.named_modules(remove_duplicate=False):
        if type(module) not in kinds and not isinstance(module, nn.Linear):
            continue
        pattern = next((p for p in keep if matches(p, name)), None)
        if pattern is not None:
            kept[name] = f"as {pattern!r} says"
        elif type(module) not in kinds:
            kept[name] = f"it is a {type(module).__name__}, which may compute something else"
        elif name in shared:
            kept[name] = f"its weight is shared with {shared[name]}"
        elif (reason := why_keep(module)) is not None:
            kept[name] = reason
        else:
            swapped.append(name)
    _refuse_unmatched(model, keep)
    return SwapPlan(swapped=tuple(swapped), kept=kept)


def swap_linears(
    model: nn.Module, make: Callable[[nn.Module], nn.Module], plan: SwapPlan
) -> ConversionReport:
    """Replace what ``plan`` names by what ``make`` returns for it, in place, one at a time.

    A module that stands under two names is made once and put under both.
    """
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
    return ConversionReport(
        swapped=plan.swapped,
        kept=plan.kept,
        bytes_before=before,
        bytes_after=module_bytes(model),
    )


def features(layer: str, x: Shaped[Tensor, "..."], width: int) -> None:
    """Raise ``ValueError`` unless the last dimension of ``x`` is as wide as the layer's weight."""
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(
            f"{layer} multiplies rows of {width} numbers, got a tensor of shape {tuple(x.shape)}: "
            f"the last dimension must be {width}. Is it the input of another layer?"
        )


def _made(old: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return make(old).train(old.training)


def module_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers of a model, shared ones once."""
    tensors: dict[int, Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` names the module ``name``, or something that holds it."""
    parts = name.split(".")
    return any(
        fnmatchcase(".".join(parts[start:end]), pattern)
        for start in range(len(parts))
        for end in range(start + 1, len(parts) + 1)
    )


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


def _refuse_unmatched(model: nn.Module, keep: Iterable[str]) -> None:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for pattern in keep:
        if pattern not in KEEP and not any(matches(pattern, name) for name in names):
            near = nearest(pattern, names)
            hint = f"Did you mean {near!r}?" if near else f"Its modules: {few(names)}."
            raise ValueError(
                f"keep={pattern!r} names no module of this {type(model).__name__}, so it would "
                f"keep nothing. {hint}"
            )
