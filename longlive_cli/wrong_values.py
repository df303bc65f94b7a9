"""What is said of an option's value that is no number, or outside of its bounds.

typer's own sentence leaves the value out, and does not say what the option is for.
"""

from typing import Any

import typer

from longlive_core.checks import shown

_NUMBERS = {"float": "a number", "int": "a whole number"}
_BOUNDS = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}


def wrong_value(error: Any) -> str | None:
    """The sentence about a wrong value: the option, its rule, the value, what the option is for.

    Args:
        error: typer's usage error.

    Returns:
        None for an error about anything else.
    """
    cause: Any = error.__cause__
    if not isinstance(error, typer.BadParameter) or not hasattr(cause, "errors"):
        return None
    option: Any = error.param
    if option is None:
        return None
    first = cause.errors()[0]
    kind, value = first["type"], shown(first["input"])
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        rule = f"{words} {first['ctx'][bound]}"
        value = value.strip("'")
    elif kind.partition("_")[0] in _NUMBERS:
        rule = _NUMBERS[kind.partition("_")[0]]
    else:
        return None
    what = (option.help or "").partition("  [")[0].partition(". ")[0].rstrip(".")
    name = max(option.opts, key=len)
    if what[1:2].islower():  # no abbreviation
        what = what[0].lower() + what[1:]
    return f"{name} is {rule}, got {value}: {what}."
