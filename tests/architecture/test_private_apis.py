"""Names that other packages keep to themselves, and that we use all the same: all are listed.

Found are imports of modules and names that begin with an underscore, attributes that begin with one
and that no file of ours defines, what an override passes on with `super()`, methods that no file of
ours calls (others do), and names as text, as `vars(...)` or a pickle has them.
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import FILES, ROOT, tree
from tests.architecture.test_documents import rows

PAGE = "docs/private_apis.md"
DOCUMENTED = {
    "_make",
    "_replace",
    "_repr_html_",
}  # of named tuples and IPython: public
AS_TEXT = re.compile(r"(?:\w+\.)*_[a-z]\w*[a-z]\.?")


def private(name: str) -> list[str]:
    """The parts of a dotted name that begin with one underscore."""
    return [part for part in name.split(".") if re.match(r"_[^_]", part)]


def defined(module: ast.AST) -> Iterator[str]:
    """Every name that a file gives to something of its own."""
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                yield node.attr


def hooks(module: ast.AST) -> Iterator[str]:
    """Private methods of classes."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            yield from (each.name for each in functions if private(each.name))


def used(module: ast.AST, ours: set[str], called: set[str]) -> Iterator[str]:
    """The private names of others in a file; `ours` are defined here, `called` are our uses."""
    inside = {
        part for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(module):
        match node:
            case ast.ImportFrom() if not (node.module or "").startswith("longlive_"):
                for alias in node.names:
                    yield from private(f"{node.module}.{alias.name}")
            case ast.Import():
                for alias in node.names:
                    yield from private(alias.name)
            case ast.Attribute(attr=name) if private(name):
                above = ast.unparse(node.value) == "super()"
                if above or name not in ours | DOCUMENTED:
                    yield name
            case ast.Constant(value=str(text)) if node not in inside and AS_TEXT.fullmatch(text):
                yield from private(text.rstrip("."))
    yield from (name for name in hooks(module) if name not in called | DOCUMENTED)


def found(modules: dict[str, ast.AST]) -> dict[str, set[str]]:
    """The private names of others, each with the files that use it."""
    ours = {name for module in modules.values() for name in defined(module)}
    called = {
        node.attr
        for module in modules.values()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "super()"
    }
    places: dict[str, set[str]] = defaultdict(set)
    for file, module in modules.items():
        for name in used(module, ours, called):
            places[name].add(file)
    return dict(places)


def listed() -> dict[str, set[str]]:
    """The same from the page."""
    places: dict[str, set[str]] = {}
    for row in rows(PAGE):
        [name] = private(row[1].strip("`"))
        assert name not in places, f"{name} is listed twice"
        places[name] = set(re.findall(r"`([\w/]+\.py)`", row[2]))
    return places


def test_the_page_lists_what_is_used_where_it_is_used():
    assert listed() == found({str(file): tree(file) for file in FILES})


def test_each_row_says_why_and_names_the_requirement_that_holds_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    pins = {*project["dependencies"], *(pin for extra in extras for pin in extra)}
    pins.add(f"python{project['requires-python']}")
    for package, name, _, why, pin in rows(PAGE):
        assert len(why.split()) > 4, name
        assert pin.strip("`") in pins, f"{name}: {pin} is no requirement of pyproject.toml"
        assert re.match(rf"{package}\b", pin.strip("`")), f"{name}: {pin} is not of {package}"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("from a._b import c", {"_b"}),
        ("import a._b.c", {"_b"}),
        ("from a import _c", {"_c"}),
        ("a.b._c(1)", {"_c"}),
        ("vars(a)['_mark'] = 1", {"_mark"}),
        ("modules.get('a._inner')", {"_inner"}),
        ("class A:\n def _hook(self): pass", {"_hook"}),
        ("class A:\n def _own(self): return self._own()", set()),
        ("class A:\n def _both(self): return super()._both() or self._both()", {"_both"}),
        ("class A:\n def f(self, other): self._x = other._x", set()),
        ("from longlive_core import _c", set()),
        ("from __future__ import annotations\na.__dict__\nt._replace(b=1)", set()),
        ("f'{a}_weight'", set()),
    ],
)
def test_what_is_found(code, names):
    assert set(found({"a.py": ast.parse(code)})) == names


def test_the_files_of_the_page_are_there():
    for files in listed().values():
        assert files and all(Path(ROOT, file).is_file() for file in files)
