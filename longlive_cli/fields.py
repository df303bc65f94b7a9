"""The fields of a config under their names for `--set`, with their types and defaults."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from longlive_cli.overrides import kind_name

LONGEST = 60
"""The most characters of a default in a list; longer ones are shortened."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: `name` is the whole path, `kind` says in words what it takes."""

    name: str
    kind: str
    default: str


def fields_of(config: Any, prefix: str = "") -> Iterator[Field]:
    """Every field that can be set, those inside other fields included."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        yield from _fields(getattr(config, field.name), hints[field.name], f"{prefix}{field.name}")


def _fields(value: Any, kind: Any, name: str) -> Iterator[Field]:
    if is_dataclass(value):
        yield from fields_of(value, f"{name}.")
    elif isinstance(value, tuple) and any(is_dataclass(part) for part in value):
        for place, part in enumerate(value):
            yield from _fields(part, get_args(kind)[0], f"{name}.{place}")
    else:
        yield Field(name=name, kind=kind_name(kind), default=written(value))


def written(value: Any) -> str:
    """A value as `--set` takes it, shortened where it is long."""
    if isinstance(value, tuple | list):
        text = ",".join(written(part) for part in value)
    elif isinstance(value, bool) or value is None:
        text = str(value).lower()
    else:
        text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def table(rows: list[Field]) -> list[str]:
    """The fields in columns: name, default, what it takes."""
    names = max((len(row.name) for row in rows), default=0)
    defaults = max((len(row.default) for row in rows), default=0)
    return [f"{row.name:{names}}  {row.default:{defaults}}  {row.kind}" for row in rows]
