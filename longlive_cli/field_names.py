"""The names and types of a recipe's fields, read from source code, so that errors are found early.

A recipe's config is made of parts that import torch. The names of its fields, and the types of most
of them, can be read from the source of the dataclasses, so `--set stpes=3` and `--set seed=x` are
refused before that. Whether a value of the right type will do is checked later by the config.
"""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from longlive_cli.catalog import Preset
from longlive_cli.overrides import read_value, unknown_field

_PLAIN = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class _Class:
    """A class as its module writes it."""

    module: str
    name: str
    body: ast.ClassDef

    @property
    def fields(self) -> dict[str, tuple[str, ast.expr]]:
        """By field, its annotation and the module that has it; fields of the bases first."""
        found: dict[str, tuple[str, ast.expr]] = {}
        for base in self.body.bases:
            if isinstance(base, ast.Name) and (above := _class(self.module, base.id)):
                found |= above.fields
        return found | {
            line.target.id: (self.module, line.annotation)
            for line in self.body.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }


def check_names(preset: Preset, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError for a name in ``wanted``, nested as a config is, that is no field.

    A value that its field's type does not take is refused, too. Names and types that cannot be read
    from the source are checked later by the config.
    """
    home = f"{preset.package}.{preset.home}"
    make = _find(home, preset.function, ast.FunctionDef)
    if make is None or not isinstance(make[1].returns, ast.Name):
        return
    config = _class(make[0], make[1].returns.id)
    if config is not None:
        _check(config, wanted, "")


def _check(config: _Class, wanted: Mapping[str, Any], prefix: str) -> None:
    fields = config.fields
    for name, value in wanted.items():
        if name not in fields:
            raise unknown_field(config.name, list(fields), name, f"{prefix}{name}")
        module, kind = fields[name]
        if isinstance(value, Mapping):
            _check_inside(module, kind, value, f"{prefix}{name}.")
        elif (known := _plain_kind(kind)) is not None:
            read_value(value, known, f"{prefix}{name}")


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
    if isinstance(kind, ast.Name) and (inner := _class(module, kind.id)):
        _check(inner, wanted, prefix)
    elif isinstance(kind, ast.BinOp):  # one config or another: the one with more of these names
        sides = [side for side in (kind.left, kind.right) if isinstance(side, ast.Name)]
        made = [one for side in sides if (one := _class(module, side.id))]
        if made:
            _check(max(made, key=lambda one: len(wanted.keys() & set(one.fields))), wanted, prefix)
    elif isinstance(kind, ast.Subscript) and isinstance(kind.slice, ast.Tuple):
        for place, value in wanted.items():
            if isinstance(value, Mapping):
                _check_inside(module, kind.slice.elts[0], value, f"{prefix}{place}.")


def _class(module: str, name: str) -> _Class | None:
    found = _find(module, name, ast.ClassDef)
    return None if found is None else _Class(found[0], name, found[1])


def _find(module: str, name: str, kind: type) -> tuple[str, Any] | None:
    """Where a module's name is defined, through the modules that it is imported from."""
    for line in _source(module):
        if isinstance(line, kind) and line.name == name:  # type: ignore[attr-defined]
            return module, line
        if isinstance(line, ast.ImportFrom) and line.module and not line.level:
            for one in line.names:
                if name == (one.asname or one.name):
                    return _find(line.module, one.name, kind)
    return None


@cache
def _source(module: str) -> tuple[ast.stmt, ...]:
    """The statements of a module; none of one that has no source file here."""
    top, *inside = module.split(".")
    spec = importlib.util.find_spec(top)
    for start in (spec.submodule_search_locations or []) if spec else []:
        place = Path(start, *inside)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return tuple(ast.parse(file.read_text(encoding="utf-8")).body)
    return ()
