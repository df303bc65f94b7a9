"""Which linears of a model stay as they are: patterns of names, functions, and the model's ends.

A pattern is matched, as file names are (``*``, ``?``, ``[ab]``), with a module's dotted name and
with every run of its parts: ``head`` keeps ``head.head``, ``blocks.0`` keeps ``blocks.0.ffn.2`` and
not ``blocks.01.ffn.2``, ``norm*`` keeps ``x.norm_q``. A function gets a linear and its name, and
says True for one that stays. ``ENDS`` reads the structure of a model that nobody here has named.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from longlive_core.checks import shown, text
from longlive_core.names import few, nearest

KeepFunction = Callable[[nn.Module, str], bool]
"""Whether a linear, given with its name, stays as it is."""


@dataclass(frozen=True)
class Ends:
    """Keeps what lies around a model's blocks, and what makes shifts and scales inside them.

    A block is a member of a ``ModuleList``, ``ModuleDict`` or ``Sequential`` that holds two linears
    or more: the layers that a transformer repeats. In a model that has blocks three kinds stay:

    - linears outside all blocks: first and last layers, embeddings of time and text, ``lm_head``;
    - linears of adaptive norms and modulations, by the names of their class (``AdaLayerNormZero``)
      or of the modules that hold them (``adaLN_modulation``);
    - linears within a module that is called an embedding, or whose class is, such as the blocks
      of a text refiner, unless it holds half of the model.

    A model without blocks, such as a plain stack of linears, has no ends.
    """

    def kept(self, model: nn.Module) -> dict[str, str]:
        """The linears that stay, by name, each with the reason; reads no weight."""
        classes = dict(model.named_modules(remove_duplicate=False))
        linears = [name for name, module in classes.items() if isinstance(module, nn.Linear)]
        holds = Counter(place for name in linears for place in _above(name))
        blocks = {
            f"{name}.{child}".lstrip(".")
            for name, module in classes.items()
            if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
            for child, _ in module.named_children()
        }
        blocks = {name for name in blocks if holds[name] >= 2}
        kept = {}
        for name in linears if blocks else ():
            above = [place for place in _above(name) if 2 * holds[place] < len(linears)]
            words = [f"{_last(place)} {type(classes[place]).__name__}" for place in above]
            if not blocks.intersection(_above(name)):
                kept[name] = "it lies outside the model's blocks, as first and last layers do"
            elif any(_says(text, "embed") for text in words):
                kept[name] = "it is part of an embedding"
            elif any(_says(text, "modulation", "adaln") for text in words) or (
                words and _says(words[-1].split()[-1], "norm")
            ):
                kept[name] = "it makes the shifts and scales of a norm"
        return kept


ENDS = Ends()
"""The rule for models whose names are not known here."""

KEEP: tuple[str | KeepFunction | Ends, ...] = (
    "text_embedding",
    "patch_embedding",
    "time_embedding",
    "time_projection",
    "head",
    "norm*",
    "lora_A",
    "lora_B",
    ENDS,
)
"""Left as they are unless told otherwise: the ends of LongLive-2.0's transformer, as the original
leaves them, norms, low-rank adapters, and the ends of any other model. They are a few percent of
the bytes and carry much of the error."""

Keep = str | KeepFunction | Ends | Sequence[str | KeepFunction | Ends]
"""What stays: one rule, or several."""


def keep_rules(keep: Keep) -> tuple[str | KeepFunction | Ends, ...]:
    """``keep`` as a tuple; a plain string is one pattern. Raises ValueError for other things."""
    alone = isinstance(keep, str | Ends) or callable(keep)
    rules = (keep,) if alone else keep
    if not isinstance(rules, Sequence) or any(
        not (isinstance(rule, str | Ends) or callable(rule)) for rule in rules
    ):
        raise ValueError(
            f"keep={shown(keep)} is no rule of what stays: give a pattern of names such as 'head', "
            f"a function of a module and its name that says True for what stays, or several of "
            f"them in a tuple. (*KEEP, ...) adds to what stays by default."
        )
    return tuple(rules)  # type: ignore[arg-type]


def why_kept(
    rules: Sequence[str | KeepFunction | Ends], name: str, module: nn.Module
) -> str | None:
    """The pattern or function that keeps a linear, in words, or None."""
    for rule in rules:
        if isinstance(rule, str):
            if matches(rule, name):
                return f"as {rule!r} says"
        elif not isinstance(rule, Ends) and rule(module, name):
            named = rule if hasattr(rule, "__name__") else type(rule)
            return f"as the function {named.__name__} says"
    return None


def matches(pattern: str, name: str) -> bool:
    """Whether ``pattern`` names the module ``name``, or something that holds it."""
    text("a pattern", pattern, why="it is matched with names of modules.")
    text("a name", name, why="a pattern is matched with it.")
    parts = name.split(".")
    return any(
        fnmatchcase(".".join(parts[start:end]), pattern)
        for start in range(len(parts))
        for end in range(start + 1, len(parts) + 1)
    )


def refuse_unmatched(model: nn.Module, rules: Sequence[str | KeepFunction | Ends]) -> None:
    """Raise ValueError for a pattern that names no module, unless it is one of ``KEEP``."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for rule in rules:
        if not isinstance(rule, str) or rule in KEEP:
            continue
        if not any(matches(rule, name) for name in names):
            near = nearest(rule, names)
            hint = f"Did you mean {near!r}?" if near else f"Its modules: {few(names)}."
            raise ValueError(
                f"keep={rule!r} names no module of this {type(model).__name__}, so it would "
                f"keep nothing. {hint}"
            )


def _above(name: str) -> Iterator[str]:
    """The modules that hold the one of this name, from the outermost; not the model itself."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _says(text: str, *words: str) -> bool:
    return any(word in text.lower() for word in words)
