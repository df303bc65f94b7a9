"""Making a dataclass from the plain values of a file, with the types of its annotations.

Nested dataclasses, tuples, lists, mappings, enums, ``Literal``, ``Optional`` and other unions are
understood. Messages name the file and the field within it. Needs no torch.
"""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from longlive_core.checks import shown
from longlive_models.unknown_keys import refuse_unknown_keys

Made = TypeVar("Made")

WAY_OUT = "Mend it, or write the file again."


def build(kind: type[Made], values: Any, where: str | Path, way_out: str = WAY_OUT) -> Made:
    """Build the dataclass ``kind`` from the values that a reader of JSON or YAML gave.

    The annotation of a field decides how its value is converted: a list to a tuple, a text to a
    path or a member of an enum, a whole number to a float; the text "inf" is a float as well. The
    dataclass's own checks run.

    Args:
        kind: the dataclass.
        values: a mapping of its fields; those with defaults may be missing.
        where: the file, and perhaps the place in it, for messages; "" if there is no file.
        way_out: the last sentence of messages.

    Raises:
        ValueError: ``values`` is no mapping, a key is unknown or missing, a value has another
            type, or the dataclass refuses it.
    """
    return _Reader(str(where), way_out).dataclass(kind, values, "")


def filled(values: Mapping[str, Any], like: Any) -> dict[str, Any]:
    """Add to values that an earlier version wrote the defaults of fields that were added later.

    The default of a field that is added always leaves everything as it was, so a file without the
    field means its default.

    Args:
        values: the fields of a dataclass as JSON holds them; unknown names are kept.
        like: the dataclass, or an instance of it, whose nested dataclasses are then filled too.
    """
    full = dict(values)
    for field in fields(like):
        if field.name in full and not isinstance(like, type):
            full[field.name] = _filled_within(full[field.name], getattr(like, field.name))
        elif field.name in full:
            continue
        elif field.default is not MISSING:
            full[field.name] = field.default
        elif field.default_factory is not MISSING:
            full[field.name] = field.default_factory()
    return full


def _filled_within(value: Any, like: Any) -> Any:
    if is_dataclass(like) and isinstance(value, Mapping):
        return filled(value, like)
    if isinstance(like, tuple) and isinstance(value, list) and len(like) == len(value):
        return [_filled_within(one, other) for one, other in zip(value, like, strict=True)]
    return value


class _Reader:
    """Converts values to annotated types; names the file and the field in its messages."""

    def __init__(self, where: str, way_out: str) -> None:
        self.lead = f"{where}: " if where else ""
        self.way_out = way_out

    def dataclass(self, kind: type[Made], values: Any, path: str) -> Made:
        if not isinstance(values, Mapping):
            raise self.refusal(path or "the whole of it", "an object {...}", values)
        own = [field for field in fields(kind) if field.init]  # type: ignore[arg-type]
        holder = path or kind.__name__
        try:
            refuse_unknown_keys(holder, values, [field.name for field in own])
        except ValueError as error:
            raise ValueError(f"{self.lead}{error}") from error
        missing = [field.name for field in own if field.name not in values and _is_needed(field)]
        if missing:
            raise ValueError(
                f"{self.lead}{holder} lacks {', '.join(missing)}: nothing implies "
                f"{'it' if len(missing) == 1 else 'them'}. {self.way_out}"
            )
        hints = get_type_hints(kind)
        made = {
            field.name: self.value(hints[field.name], values[field.name], _join(path, field.name))
            for field in own
            if field.name in values
        }
        try:
            return kind(**made)
        except ValueError as error:
            inner = f"{path}: " if path else ""
            raise ValueError(f"{self.lead}{inner}{error}") from error

    def value(self, kind: Any, value: Any, path: str) -> Any:
        """Convert ``value`` to the type ``kind``; ``path`` names the field in messages."""
        if kind is Any or kind is object:
            return value
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self.any_of(arguments, value, path)
        if origin is Literal:
            return self.literal(arguments, value, path)
        holder = origin or kind
        if holder is tuple:
            return tuple(self.items(arguments, value, path))
        if holder is list:
            return self.items((*arguments, Ellipsis), value, path)
        if isinstance(holder, type) and issubclass(holder, Mapping):
            return self.mapping(arguments, value, path)
        if is_dataclass(kind) and isinstance(kind, type):
            return self.dataclass(kind, value, path)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(self.literal(tuple(one.value for one in kind), value, path))
        read = _PLAIN.get(kind)
        assert read is not None, f"{path}: a file cannot hold a {kind}"
        made = read(value)
        if made is _UNFIT:
            raise self.refusal(path, describe(kind), value)
        return made

    def any_of(self, kinds: tuple[Any, ...], value: Any, path: str) -> Any:
        inner = [kind for kind in kinds if kind is not type(None)]
        if value is None and len(inner) < len(kinds):
            return None
        if len(inner) == 1:
            return self.value(inner[0], value, path)
        for kind in inner:
            try:
                return self.value(kind, value, path)
            except ValueError:
                continue
        raise self.refusal(path, " or ".join(map(describe, kinds)), value)

    def literal(self, choices: tuple[Any, ...], value: Any, path: str) -> Any:
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise self.refusal(path, f"one of {', '.join(map(repr, choices))}", value)

    def items(self, kinds: tuple[Any, ...], value: Any, path: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise self.refusal(path, "a list [...]", value)
        if len(kinds) < 2 or kinds[1] is Ellipsis:
            repeated = kinds[:1] or (Any,)
            kinds = repeated * len(value)
        if len(kinds) != len(value):
            raise ValueError(
                f"{self.lead}{path} is a list of {len(kinds)}, got {len(value)}. {self.way_out}"
            )
        return [
            self.value(kind, item, f"{path}[{place}]")
            for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
        ]

    def mapping(self, kinds: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise self.refusal(path, "an object {...}", value)
        key_kind, item_kind = kinds or (Any, Any)
        return {
            self.key(key_kind, key, path): self.value(item_kind, item, _join(path, str(key)))
            for key, item in value.items()
        }

    def key(self, kind: Any, key: Any, path: str) -> Any:
        if kind is int and isinstance(key, str) and key.isdecimal() and len(key) < 19:
            return int(key)  # JSON has keys of text alone
        return self.value(kind, key, f"a key of {path}")

    def refusal(self, path: str, rule: str, value: Any) -> ValueError:
        return ValueError(
            f"{self.lead}{path} is {rule}, got {shown(value)}: what reads it counts on that. "
            f"{self.way_out}"
        )


def describe(kind: Any) -> str:
    """A type in words, for messages."""
    if is_dataclass(kind) or get_origin(kind) in (dict, Mapping):
        return "an object {...}"
    if get_origin(kind) in (tuple, list):
        return "a list [...]"
    if kind is type(None):
        return "null"
    words = {
        int: "a whole number",
        float: "a finite number",
        str: "text",
        bool: "true or false",
        Path: "a path in quotes",
    }
    return words.get(kind, str(kind))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


_UNFIT = object()


def _int(value: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else _UNFIT


def _float(value: Any) -> Any:
    if value == "inf":  # what a record has for a length without an end
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _UNFIT
    try:
        return value if math.isfinite(value) else _UNFIT
    except OverflowError:
        return _UNFIT


def _str(value: Any) -> Any:
    return value if isinstance(value, str) else _UNFIT


def _bool(value: Any) -> Any:
    return value if isinstance(value, bool) else _UNFIT


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and value and "\0" not in value else _UNFIT


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    str: _str,
    bool: _bool,
    Path: _path,
}
