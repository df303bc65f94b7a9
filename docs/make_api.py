"""Write docs/api.md: every public name with the first line of what it says of itself.

    python docs/make_api.py

The names are those of tests/architecture/public_names.txt. Sources are read, not imported, so that
no package that a name may need has to be there.
"""

import ast
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = ROOT / "tests" / "architecture" / "public_names.txt"
PAGE = ROOT / "docs" / "api.md"
PACKAGES = ("longlive_core", "longlive_models")
HEAD = """# Public names

Made by `python docs/make_api.py` from `tests/architecture/public_names.txt` and the docstrings.
"""


def page() -> str:
    """The page, as it should be."""
    parts = [HEAD]
    for home, names in groupby(NAMES.read_text().split(), lambda name: name.rpartition(".")[0]):
        parts.append(f"\n## {home}\n\n| name | |\n|---|---|\n")
        for name in names:
            last = name.rpartition(".")[2]
            parts.append(f"| `{last}` | {first_line(home, last).replace('|', chr(92) + '|')} |\n")
    return "".join(parts)


def first_line(module: str, name: str) -> str:
    """What ``module.name`` says of itself; of a constant without a docstring, its value.

    Raises ValueError for a name that is not found.
    """
    for node, following in _statements(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return _first(ast.get_docstring(node) or "")
        if _assigned(node) == name:
            says = following.value if isinstance(following, ast.Expr) else None
            if isinstance(says, ast.Constant) and isinstance(says.value, str):
                return _first(says.value)
            return f"`{_value(node)}`"
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name and _file(node.module):
                    return first_line(node.module, alias.name)
    raise ValueError(f"{module} has no {name}: is {NAMES.name} up to date?")


def _statements(module: str) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Each statement of a module with the one after it, those for type checkers included."""
    body: list[ast.stmt] = []
    for node in _tree(module).body:
        body += node.body if isinstance(node, ast.If) else [node]
    yield from zip(body, [*body[1:], None], strict=True)


@cache
def _tree(module: str) -> ast.Module:
    file = _file(module)
    if file is None:
        raise ValueError(f"there is no module {module}.")
    return ast.parse(file.read_text(encoding="utf-8"))


def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    found = (file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file())
    return next(found, None) if module.split(".")[0] in PACKAGES else None


def _assigned(node: ast.stmt) -> str | None:
    target: ast.expr | None = None
    if isinstance(node, ast.Assign):
        target = node.targets[0]
    elif isinstance(node, ast.AnnAssign):
        target = node.target
    return target.id if isinstance(target, ast.Name) else None


def _value(node: ast.stmt) -> str:
    """An assignment as it is written, in one line; of a call, which function it is of."""
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    if isinstance(value, ast.Call):
        return f"{ast.unparse(value.func)}(...)"
    return " ".join(ast.unparse(node).split())


def _first(text: str) -> str:
    """The first paragraph of a docstring, which is one sentence, in one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
