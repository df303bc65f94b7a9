"""The names and types of a recipe's fields, read from source code, so that errors are found early.

A recipe's config is made of parts that import torch. The names of its fields, the types of most of
them and the bounds of many can be read from the source of the dataclasses, so `--set stpes=3`,
`--set seed=x` and `--set seed=-1` are refused before that. Whether values fit each other is checked
later by the config.
"""

import ast
from collections.abc import Mapping
from typing import Any, Literal

from longlive_cli.catalog import Preset
from longlive_cli.field_checks import check_field
from longlive_cli.overrides import read_value, unknown_field
from longlive_cli.source_code import SourceClass, find_class, find_function

_PLAIN = {"int": int, "float": float, "bool": bool, "str": str}


def check_names(preset: Preset, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError for a name in ``wanted``, nested as a config is, that is no field.

    A value that its field's type does not take is refused, too, and a number out of its field's
    bounds. What cannot be read from the source is checked later by the config.
    """
    home = f"{preset.package}.{preset.home}"
    make = find_function(home, preset.function)
    if make is None or not isinstance(make[1].returns, ast.Name):
        return
    config = find_class(make[0], make[1].returns.id)
    if config is not None:
        _check(config, wanted, "")


def _check(
    config: SourceClass, wanted: Mapping[str, Any], prefix: str, *, bounds: bool = True
) -> None:
    """Hold values to the fields of a config; to their ``bounds``, too, if it is sure to be this."""
    fields = config.fields
    for name, value in wanted.items():
        if name not in fields:
            raise unknown_field(config.name, list(fields), name, f"{prefix}{name}")
        module, kind = fields[name]
        if isinstance(value, Mapping):
            _check_inside(module, kind, value, f"{prefix}{name}.")
        elif (known := _plain_kind(kind)) is not None:
            value = read_value(value, known, f"{prefix}{name}")
            if bounds:
                check_field(config, name, value)


def _plain_kind(kind: ast.expr) -> Any:
    """The type that an annotation means, if it is made of plain types alone; else None.

    They are numbers, switches, texts, choices of texts, tuples of these, and "or None".
    """
    match kind:
        case ast.Name(id=name):
            return _PLAIN.get(name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            inner = _plain_kind(left)
            return None if inner is None else inner | None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=choices)):
            texts = [one.value for one in choices if isinstance(one, ast.Constant)]
            return Literal.__getitem__(tuple(texts)) if len(texts) == len(choices) else None
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            inside = [... if _is_ellipsis(part) else _plain_kind(part) for part in parts]
            return None if None in inside else tuple.__class_getitem__(tuple(inside))
    return None


def _is_ellipsis(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and part.value is ...


def _check_inside(module: str, kind: ast.expr, wanted: Mapping[str, Any], prefix: str) -> None:
    """Of a config within a config, or of the places of a tuple of them."""
    if isinstance(kind, ast.Name) and (inner := find_class(module, kind.id)):
        _check(inner, wanted, prefix)
    elif isinstance(kind, ast.BinOp):  # one config or another: the one with more of these names
        sides = [side for side in (kind.left, kind.right) if isinstance(side, ast.Name)]
        made = [one for side in sides if (one := find_class(module, side.id))]
        if made:
            likely = max(made, key=lambda one: len(wanted.keys() & set(one.fields)))
            _check(likely, wanted, prefix, bounds=False)
    elif isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple):
        for place, value in wanted.items():
            if isinstance(value, Mapping):
                _check_inside(module, kind.slice.elts[0], value, f"{prefix}{place}.")
