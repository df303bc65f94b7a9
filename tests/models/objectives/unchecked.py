"""Dataclasses made as a user's process makes them, where annotations are not checked."""

from dataclasses import MISSING, fields


def unchecked(kind: type, **values: object) -> object:
    """``kind(**values)``, held by its own checks alone."""
    made = object.__new__(kind)
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        object.__setattr__(made, field.name, values.get(field.name, default))
    made.__post_init__()
    return made
