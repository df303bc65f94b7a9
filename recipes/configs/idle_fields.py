"""Fields that change nothing beside others: refused where they are set, rather than passed over."""

from dataclasses import fields, is_dataclass
from typing import Any

from longlive_core.checks import shown


def refuse_idle(config: Any, name: str, *usual: Any, because: str, way_out: str = "") -> None:
    """Raise ValueError where a field that changes nothing has another value than its usual ones.

    Args:
        name: of the field; of a part of the config, its first field that differs is named.
        usual: values that ask for nothing, the default first.
        because: why it changes nothing, as the rest of a sentence.
        way_out: what to do instead, if it is to change something: "Set pull", say.
    """
    value = getattr(config, name)
    if value in usual:
        return
    told, left = f"{name}={shown(value)}", usual[0]
    if is_dataclass(value):
        inner = next(
            field.name
            for field in fields(value)
            if getattr(value, field.name) != getattr(usual[0], field.name)
        )
        told, left = f"{name}.{inner}={shown(getattr(value, inner))}", getattr(left, inner)
    end = f"{way_out}, or leave it" if way_out else "Leave it"
    raise ValueError(
        f"{type(config).__name__}.{told} changes nothing: {because}. {end} at {shown(left)}."
    )
