"""Options that do not go together, or would not be looked at, are refused with their names."""

from collections.abc import Mapping
from typing import Any


def option_of(field: str) -> str:
    """The option of a field: "--max-memory" of "max_memory"."""
    return f"--{field.replace('_', '-')}"


def refuse_beside(leader: str, given: Mapping[str, Any], reason: str) -> None:
    """Raise ValueError if one of ``given``, options by name, was given beside ``leader``.

    None, False and an empty list are an option that was not given.
    """
    named = [
        name
        for name, value in given.items()
        if value is not None and value is not False and value not in ([], ())
    ]
    if named:
        raise ValueError(
            f"{leader} and {', '.join(named)} do not go together: {reason}. Leave one side out."
        )
