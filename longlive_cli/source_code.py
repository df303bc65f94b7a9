"""Classes, functions and constants of modules, read from their source code without importing them.

What is looked up may stand in the module itself or in one that it imports the name from.
"""

import ast
import importlib.util
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_OPERATIONS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
}


@dataclass(frozen=True)
class SourceClass:
    """A class as its module writes it."""

    module: str
    name: str
    body: ast.ClassDef

    @property
    def bases(self) -> list["SourceClass"]:
        """The classes that it names as bases, as far as their source is found."""
        named = [find_class(self.module, b.id) for b in self.body.bases if isinstance(b, ast.Name)]
        return [base for base in named if base is not None]

    @property
    def fields(self) -> dict[str, tuple[str, ast.expr]]:
        """By field, its annotation and the module that has it; fields of the bases first."""
        found: dict[str, tuple[str, ast.expr]] = {}
        for base in self.bases:
            found |= base.fields
        return found | {
            line.target.id: (self.module, line.annotation)
            for line in self.body.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }

    def method(self, name: str) -> tuple["SourceClass", ast.FunctionDef] | None:
        """The method of this name, and the class that has it: this one, or else a base."""
        for line in self.body.body:
            if isinstance(line, ast.FunctionDef) and line.name == name:
                return self, line
        return next((found for base in self.bases if (found := base.method(name))), None)


def find_class(module: str, name: str) -> SourceClass | None:
    """The class that a module knows by this name."""
    found = _find(module, name, ast.ClassDef)
    return None if found is None else SourceClass(found[0], name, found[1])


def find_function(module: str, name: str) -> tuple[str, ast.FunctionDef] | None:
    """The function that a module knows by this name, and the module that has it."""
    return _find(module, name, ast.FunctionDef)


def constant(node: ast.expr, module: str, known: Mapping[str, Any]) -> Any:
    """What an expression stands for, of constants of its module and of the names in ``known``.

    Raises:
        LookupError: it takes more than that to know.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return known[name] if name in known else _module_constant(module, name)
        case ast.Tuple(elts=parts):
            return tuple(constant(part, module, known) for part in parts)
        case ast.JoinedStr(values=parts):
            return "".join(constant(part, module, known) for part in parts)
        case ast.FormattedValue(value=inner, conversion=-1, format_spec=None):
            return str(constant(inner, module, known))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -constant(inner, module, known)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            sides = constant(left, module, known), constant(right, module, known)
            return _OPERATIONS[type(op)](*sides)
        case ast.Call(func=ast.Name(id="float"), args=[inner], keywords=[]):
            return float(constant(inner, module, known))
    raise LookupError(ast.unparse(node))


def _module_constant(module: str, name: str) -> Any:
    for line in _statements(module):
        if isinstance(line, ast.Assign) and _is_name(line.targets[0], name):
            return constant(line.value, module, {})
        if isinstance(line, ast.AnnAssign) and line.value and _is_name(line.target, name):
            return constant(line.value, module, {})
        if (origin := _origin(line, name)) is not None:
            return _module_constant(*origin)
    raise LookupError(name)


def _find(module: str, name: str, kind: type) -> tuple[str, Any] | None:
    """Where a module's name is defined, through the modules that it is imported from."""
    for line in _statements(module):
        if isinstance(line, kind) and line.name == name:  # type: ignore[attr-defined]
            return module, line
        if (origin := _origin(line, name)) is not None:
            return _find(*origin, kind)
    return None


def _origin(line: ast.stmt, name: str) -> tuple[str, str] | None:
    """The module that a line imports a name from, and what it is called there."""
    if isinstance(line, ast.ImportFrom) and line.module and not line.level:
        for one in line.names:
            if name == (one.asname or one.name):
                return line.module, one.name
    return None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


@cache
def _statements(module: str) -> tuple[ast.stmt, ...]:
    """The statements of a module; none of one that has no source file here."""
    top, *inside = module.split(".")
    spec = importlib.util.find_spec(top)
    for start in (spec.submodule_search_locations or []) if spec else []:
        place = Path(start, *inside)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return tuple(ast.parse(file.read_text(encoding="utf-8")).body)
    return ()
