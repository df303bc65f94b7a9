"""Which adapter files a model is run with, each with its weight: FILE or FILE:WEIGHT.

Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longlive_core.checks import real, shown

MOST_WEIGHT = 100.0
"""The largest weight of an adapter, up or down: a hundred times what it was trained to add leaves
nothing of the model."""


@dataclass(frozen=True)
class LoRASource:
    """An adapter's file or folder, and the factor of what it adds."""

    path: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        why = "it scales what the adapter adds, and 1 is as it was trained. Use 0.8, say."
        weight = real(
            f"the weight of {self.path}",
            self.weight,
            at_least=-MOST_WEIGHT,
            at_most=MOST_WEIGHT,
            why=why,
        )
        object.__setattr__(self, "weight", weight)

    def __str__(self) -> str:
        return f"{self.path}:{self.weight!r}"

    @classmethod
    def parse(cls, text: str) -> "LoRASource":
        """Read FILE or FILE:WEIGHT. Raises ValueError for a weight that is none."""
        name, colon, weight = text.rpartition(":")
        if not colon or Path(text).exists():
            name, weight = text, "1"
        if not name.strip() or "\0" in name:
            raise ValueError(
                f"lora={shown(text)} names no file. Write FILE or FILE:WEIGHT, as style.safetensors"
                f":0.8."
            )
        try:
            number = float(weight)
        except ValueError as error:
            raise ValueError(
                f"lora={shown(text)} is FILE or FILE:WEIGHT, and {shown(weight)} is no number: it "
                f"scales what the adapter adds. Write {name}:0.8, say."
            ) from error
        return cls(Path(name), number)


def lora_texts(given: Any) -> tuple[str, ...]:
    """Adapters as texts FILE:WEIGHT, in the order given.

    Args:
        given: a text FILE or FILE:WEIGHT, a path, a pair (path, weight), or a sequence of these.

    Raises:
        ValueError: something else, or a weight that is none.
    """
    if _is_one(given):
        given = [given]
    if not isinstance(given, Sequence) or not all(map(_is_one, given)):
        raise ValueError(
            f"lora is a file of an adapter, a pair (file, weight), or a list of these, got "
            f"{shown(given)}. Write lora=[('style.safetensors', 0.8)], say."
        )
    return tuple(str(_source(one)) for one in given)


def absolute(text: str) -> str:
    """FILE:WEIGHT with the whole path of the file."""
    source = LoRASource.parse(text)
    return str(LoRASource(source.path.resolve(), source.weight))


def _is_one(value: Any) -> bool:
    pair = isinstance(value, tuple | list) and len(value) == 2
    if pair and isinstance(value[0], str | Path) and not isinstance(value[1], str | Path):
        return not isinstance(value[1], tuple | list)
    return isinstance(value, str | Path)


def _source(value: Any) -> LoRASource:
    if isinstance(value, str):
        return LoRASource.parse(value)
    return LoRASource(value) if isinstance(value, Path) else LoRASource(Path(value[0]), value[1])
