"""The source files of the four packages, parsed once."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("longlive_core", "longlive_models", "recipes", "longlive_cli")
FILES = [
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
]


def module_name(file: Path) -> str:
    """What a file, or a package's folder, is imported as."""
    parts = [part for part in file.with_suffix("").parts if part != "__init__"]
    return ".".join(["longlive_recipes" if parts[0] == "recipes" else parts[0], *parts[1:]])


@cache
def text(file: Path) -> str:
    return (ROOT / file).read_text()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(text(file))


def imported_by(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether that happens when the file is imported."""
    at_import = set(_outside_functions(tree(file)))
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            yield node.module or "", node in at_import
            # `from package import module` imports the module too
            yield from ((f"{node.module}.{alias.name}", node in at_import) for alias in node.names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _outside_functions(child)
