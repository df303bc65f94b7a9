"""Change fields of a frozen config: `--set name.inner=value` and YAML files, typed and named.

Values are read by the field's annotation, unknown fields are refused with the nearest name, and the
config's own checks run again, because every level is rebuilt.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from longlive_cli.refusals import option_of
from longlive_core.checks import shown
from longlive_core.names import did_you_mean

Config = TypeVar("Config")

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NOTHING = ("none", "null", "")


def configure(
    config: Config, file: Path | None = None, overrides: Iterable[str] | None = None
) -> Config:
    """Return the config with a YAML file's fields and every `name=value` applied, all at once.

    A config's checks see the result alone, so the order of overrides matters only where two are of
    the same field: the later one holds, and any holds over the file.

    Raises:
        ValueError: no `=`, an unknown field, a value that does not fit the field's type, or what
            the config itself refuses.
    """
    wanted = gather(file, overrides)
    try:
        return apply_mapping(config, wanted)
    except ValueError as error:
        if file is not None and str(error) == _refusal(config, gather(file)):
            raise ValueError(f"{file}: {error}") from error
        raise


def _refusal(config: Any, values: Mapping[str, Any]) -> str | None:
    """The error of a file's fields by themselves, if there is one."""
    try:
        apply_mapping(config, values)
    except ValueError as error:
        return str(error)
    return None


def refuse_given_twice(options: Iterable[str], overrides: Iterable[str] | None) -> None:
    """Refuse a field that both its own option and `--set` give.

    Args:
        options: the fields whose options were given.
        overrides: the `name=value` of `--set`.

    Raises:
        ValueError: one of them names such a field.
    """
    given = set(options)
    for setting in overrides or ():
        name = setting.partition("=")[0].strip()
        if name in given:
            raise ValueError(
                f"{shown(name)} is given twice, by {option_of(name)} and by --set "
                f"{shown(setting)}: only one of them can hold. Leave one out."
            )


def gather(file: Path | None = None, overrides: Iterable[str] | None = None) -> dict[str, Any]:
    """Merge a YAML file's fields and every `name=value` into one nested mapping.

    Raises:
        ValueError: no `=`, or a field that is set as a whole and in part.
    """
    wanted: dict[str, Any] = {}
    if file is not None:
        _merge(wanted, read_config_file(file), "")
    for setting in overrides or ():
        _merge(wanted, _as_mapping(setting), "")
    return wanted


def apply_mapping(config: Config, values: Mapping[str, Any], prefix: str = "") -> Config:
    """Return the config with the fields of a nested mapping, as a YAML file has it."""
    hints = get_type_hints(type(config))
    changes = {
        name: _changed(_field(config, name, f"{prefix}{name}"), hints[name], v, f"{prefix}{name}")
        for name, v in values.items()
    }
    return replace(config, **changes)  # type: ignore[type-var]


def read_config_file(path: Path) -> Mapping[str, Any]:
    """The mapping that a YAML file holds."""
    from longlive_models.documents import read_yaml

    return read_yaml(path, "a config")


def _as_mapping(setting: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": "1"}}`."""
    path, equals, text = setting.partition("=")
    if not equals:
        raise ValueError(
            f"--set takes name=value, got {shown(setting)}: write, say, {path.strip()}=1."
        )
    value: Any = text.strip()
    for name in reversed(path.strip().split(".")):
        value = {name: value}
    mapping: dict[str, Any] = value
    return mapping


def _merge(into: dict[str, Any], values: Mapping[Any, Any], prefix: str) -> None:
    for key, value in values.items():
        name = str(key)
        if not isinstance(value, Mapping):
            into[name] = value
            continue
        inner = into.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(
                f"{prefix}{name} is set as a whole and then in part: write the part into the whole."
            )
        _merge(inner, value, f"{prefix}{name}.")


def _changed(holder: Any, kind: Any, value: Any, path: str) -> Any:
    """`holder`, of type `kind`, with `value`, or with the parts of it that `value` maps."""
    if is_dataclass(holder):
        if isinstance(value, Mapping):
            return apply_mapping(holder, value, f"{path}.")
        inside = ", ".join(field.name for field in fields(holder))
        raise ValueError(f"{path} has fields of its own; set one of them: {inside}.")
    if isinstance(holder, tuple) and isinstance(value, Mapping):
        return _changed_places(holder, kind, value, path)
    return read_value(value, kind, path)


def _changed_places(
    holder: tuple[Any, ...], kind: Any, values: Mapping[str, Any], path: str
) -> tuple[Any, ...]:
    places = list(holder)
    for name, value in values.items():
        if not name.isdecimal() or int(name) >= len(places):
            raise ValueError(
                f"{path}.{name}: {name!r} is no place in a list of {len(places)}; from 0."
            )
        place = int(name)
        places[place] = _changed(places[place], _kind_at(kind, place), value, f"{path}.{name}")
    return tuple(places)


def _kind_at(kind: Any, place: int) -> Any:
    """The type of one entry of a tuple type."""
    kinds = get_args(kind)
    return kinds[0] if kinds[1:] == (Ellipsis,) else kinds[place]


def _field(config: object, name: str, path: str) -> Any:
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    if name not in known:
        raise unknown_field(type(config).__name__, known, name, path)
    return getattr(config, name)


def unknown_field(config: str, known: list[str], name: str, path: str) -> ValueError:
    """The message about a name that is no field of the class named `config`."""
    hint = did_you_mean(name, known)
    place = f" (in {path})" if path != name else ""
    return ValueError(
        f"{config} has no field {shown(name)}{place}{hint}Its fields: {', '.join(known)}."
    )


def read_value(value: Any, kind: Any, path: str) -> Any:
    """`value`, a string or what YAML gave, as `kind`."""
    try:
        return _as(value, kind)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        if isinstance(value, Mapping) and value:
            name = next(iter(value))
            raise ValueError(
                f"{path}.{name}: {shown(name)} cannot be set, {kind_name(kind)} has no fields."
            ) from error
        raise ValueError(f"{path} takes {kind_name(kind)}, got {shown(value)}.") from error


def _as(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _as_any(value, arguments)
    if origin is Literal:
        return _as_literal(value, arguments)
    if origin is tuple or kind is tuple:
        return _as_tuple(value, arguments)
    if kind is types.NoneType:
        if value is None or (isinstance(value, str) and value.lower() in NOTHING):
            return None
        raise ValueError
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _as_config(value, kind)
    return _as_plain(value, kind)


def _as_config(values: Mapping[str, Any], kind: Any) -> Any:
    hints = get_type_hints(kind)
    return kind(**{name: _as(value, hints[name]) for name, value in values.items()})


def _as_any(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in sorted(kinds, key=lambda kind: kind is str):  # text fits anything, so it is last
        try:
            return _as(value, kind)
        except (ValueError, TypeError, OverflowError):
            continue
    raise ValueError


def _as_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    raise ValueError


def _as_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = _entries(value)
    if not isinstance(value, list | tuple):
        raise ValueError
    if not kinds:
        return tuple(value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_as(part, kinds[0]) for part in value)
    if len(kinds) != len(value):
        raise ValueError
    return tuple(_as(part, kind) for part, kind in zip(value, kinds, strict=True))


def _entries(text: str) -> list[str]:
    """The entries of `4,2`, `(4, 2)` or `[4, 2]`; no brackets are taken from names like `a[01]`.

    Raises ValueError for an empty one: dropping it would move what comes after, and a comma at the
    end may be half of a list. Python's own `(4,)` is a list of one.
    """
    text = text.strip()
    inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    if any(bracket in inside for bracket in "()[]"):
        inside = text
    entries = [part.strip() for part in inside.split(",")]
    if entries == [""] or (inside != text and len(entries) == 2 and not entries[1]):
        entries.pop()
    if "" in entries:
        raise ValueError
    return entries


def _as_plain(value: Any, kind: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _as_word(value)
    if isinstance(value, bool):
        raise ValueError
    if kind is int and isinstance(value, float):
        raise ValueError
    if kind is int and isinstance(value, str):
        return int(value.replace("_", ""))
    if kind in (str, Path) and not isinstance(value, str | int | float | Path):
        raise ValueError
    if kind in (float, str, int, Path) or _is_enum(kind):
        return kind(value)
    if isinstance(value, kind):
        return value
    raise ValueError


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _as_word(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in WORDS:
        return WORDS[value.lower()]
    raise ValueError


def kind_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_name(part) for part in arguments)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if _is_enum(kind):
        return " or ".join(repr(choice.value) for choice in kind)
    if kind is types.NoneType:
        return "none"
    if kind is bool:
        return "true or false"
    plain = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if kind in plain:
        return plain[kind]
    if origin is tuple:
        several = {int: "whole numbers", float: "numbers", str: "texts"}
        inside = [part for part in arguments if part is not Ellipsis]
        count = "" if Ellipsis in arguments else f"{len(inside)} "
        names = [several.get(part, kind_name(part)) for part in dict.fromkeys(inside)]
        like = "a,b" if inside == [str] else "1,2"
        return f"a list like {like} of {count}{' and '.join(names)}"
    return kind.__name__ if isinstance(kind, type) else str(kind)
