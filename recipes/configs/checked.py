"""Checks of fields of frozen configs: values are converted or refused, with the field's name.

Configs call them when they are made, so that no wrong value gets further.
"""

from collections.abc import Sequence
from typing import Any

from longlive_core.checks import real, shown, whole

YEAR = 365 * 24 * 60
"""The most minutes of a run, or of a wait within one."""


def whole_field(
    config: Any, name: str, *, why: str, at_least: int | None = None, at_most: int | None = None
) -> None:
    """Let ``config.name`` hold an int within the bounds. Raises ValueError otherwise."""
    given = vars(config)[name]
    value = whole(_known(config, name), given, why=why, at_least=at_least, at_most=at_most)
    object.__setattr__(config, name, value)


def real_field(
    config: Any,
    name: str,
    *,
    why: str,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """Let ``config.name`` hold a finite float within the bounds. Raises ValueError otherwise."""
    value = real(
        _known(config, name),
        vars(config)[name],
        why=why,
        above=above,
        at_least=at_least,
        at_most=at_most,
    )
    object.__setattr__(config, name, value)


def switch_field(config: Any, *names: str) -> None:
    """Raise ValueError for a field that is neither True nor False."""
    for name in names:
        value = vars(config)[name]
        if not isinstance(value, bool):
            raise ValueError(f"{_known(config, name)} is true or false, got {shown(value)}.")


def text_field(config: Any, *names: str, optional: bool = False) -> None:
    """Raise ValueError for a field that holds no text, or an empty one, or one that no file has."""
    for name in names:
        value = vars(config)[name]
        if optional and value is None:
            continue
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            instead = " Leave it out for none." if optional else ""
            raise ValueError(f"{_known(config, name)} is a text, got {shown(value)}.{instead}")


def choice_field(config: Any, name: str, choices: Sequence[str], *, why: str) -> None:
    """Raise ValueError for a field that is none of ``choices``."""
    value = vars(config)[name]
    if value not in choices:
        raise ValueError(
            f"{_known(config, name)} is one of {', '.join(choices)}, got {shown(value)}: {why}"
        )


def part_field(config: Any, name: str, *kinds: type) -> None:
    """Raise ValueError for a field that is no config of its kind, or of one of several."""
    value = vars(config)[name]
    if not isinstance(value, kinds):
        known = " or a ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{_known(config, name)} is a {known}, got {shown(value)}.")


def parts_field(config: Any, name: str, kind: type) -> None:
    """Let ``config.name`` be a tuple of configs of one kind. Raises ValueError otherwise."""
    value = vars(config)[name]
    if not isinstance(value, list | tuple) or not all(isinstance(one, kind) for one in value):
        raise ValueError(
            f"{_known(config, name)} is a tuple of {kind.__name__}, got {shown(value)}."
        )
    object.__setattr__(config, name, tuple(value))


def _known(config: Any, name: str) -> str:
    """A field as messages name it."""
    return f"{type(config).__name__}.{name}"
