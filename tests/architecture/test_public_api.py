"""The public names are pinned: adding or removing one is a decision, written in `public_names.txt`.

A package's public names are those that its `__init__.py` defines or re-exports as `Name as Name`.
Modules of `MODULES` are imported by their own name: what they define without an underscore is
public, too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source import FILES, tree

PINNED = Path(__file__).with_name("public_names.txt")
HELPERS = ("typing", "longlive_models.lazy")
MODULES = (
    "longlive_core/attention.py",
    "longlive_core/attention_mask.py",
    "longlive_core/backends.py",
    "longlive_core/module_swap.py",
    "longlive_core/noise.py",
    "longlive_core/testing.py",
    "longlive_models/first_frame.py",
    "longlive_models/lora.py",
)


def public_names() -> list[str]:
    """One line a name, `package.Name`, in order."""
    found = []
    for file in FILES:
        if file.name == "__init__.py" and file.parts[0] in ("longlive_core", "longlive_models"):
            package = ".".join(file.parent.parts)
            found += [f"{package}.{name}" for name in _names(tree(file))]
        elif file.as_posix() in MODULES:
            module = ".".join(file.with_suffix("").parts)
            found += [f"{module}.{name}" for name in _defined(tree(file))]
    return sorted(found)


def _defined(module: ast.Module) -> list[str]:
    """What a module defines without an underscore, or re-exports as ``Name as Name``."""
    names = _names(module)
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def _names(module: ast.Module) -> list[str]:
    names = []
    for node in _public_part(module):
        if isinstance(node, ast.ImportFrom):
            names += [alias.asname for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_") or name == "__version__"]


def _public_part(module: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a package, with those that type checkers alone see: lazy imports."""
    for node in module.body:
        lazy = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        yield from node.body if lazy else [node]


def test_public_names_are_the_pinned_ones():
    pinned, here = PINNED.read_text().split(), public_names()
    added, gone = sorted(set(here) - set(pinned)), sorted(set(pinned) - set(here))
    assert here == pinned, f"new: {added}; gone: {gone}; sort {PINNED.name} and write them there"


def test_a_public_list_is_explicit():
    for file in FILES:
        if file.name == "__init__.py":
            for node in ast.walk(tree(file)):
                if isinstance(node, ast.ImportFrom) and node.module not in HELPERS:
                    for alias in node.names:
                        assert alias.name != "*", f"{file} imports everything"
                        assert alias.asname == alias.name, (
                            f"{file}: write {alias.name} as {alias.name}"
                        )
