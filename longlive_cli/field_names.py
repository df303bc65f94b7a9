"""The names of a recipe's fields, read from source code, so that typing errors are found early.

A recipe's config is made of parts that import torch. The names of its fields can be read from the
source of the dataclasses, so `--set stpes=3` is refused before that. Values are checked later by
the config.
"""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from longlive_cli.catalog import Preset
from longlive_cli.overrides import unknown_field


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

    Names that cannot be read from the source are checked later by the config.
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
        if isinstance(value, Mapping):
            module, kind = fields[name]
            _check_inside(module, kind, value, f"{prefix}{name}.")


def _check_inside(module: str, kind: ast.expr, wanted: Mapping[str, Any], prefix: str) -> None:
    """Of a config within a config, or of the places of a tuple of them."""
    if isinstance(kind, ast.Name) and (inner := _class(module, kind.id)):
        _check(inner, wanted, prefix)
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
