"""Small faults for a program: where they fit in a source, and what they make of it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
}


@dataclass(frozen=True, order=True)
class Mutation:
    """Characters ``start`` to ``end`` of a file become ``new``."""

    file: str
    line: int
    start: int
    end: int
    new: str
    what: str

    def apply(self, source: str) -> str:
        """The file's text with the fault in it."""
        return source[: self.start] + self.new + source[self.end :]


def mutations(file: str, source: str) -> Iterator[Mutation]:
    """Every fault that fits into a source; types, texts and imports stay as they are."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def at(line: int, column: int) -> int:
        start = lines[line - 1]
        text = source[start : lines[line]] if line < len(lines) else source[start:]
        return start + len(text.encode()[:column].decode())

    def between(one: ast.AST, other: ast.AST) -> tuple[int, int]:
        return at(one.end_lineno, one.end_col_offset), at(other.lineno, other.col_offset)

    def change(node: ast.AST, start: int, end: int, new: str, what: str) -> Mutation:
        return Mutation(file, node.lineno, start, end, new, what)

    def whole(node: ast.AST, new: str, what: str) -> Mutation:
        first = at(node.lineno, node.col_offset)
        return change(node, first, at(node.end_lineno, node.end_col_offset), new, what)

    for node in _code(ast.parse(source)):
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                new = _COMPARISONS[type(op)]
                start, end = between(left, right)
                if not set("()") & set(source[start:end]):
                    yield change(node, start, end, f" {new} ", f"comparison -> {new}")
            case ast.BinOp(op=op) if type(op) in _ARITHMETIC and _is_plain(source, node, between):
                new = _ARITHMETIC[type(op)]
                start, end = between(node.left, node.right)
                yield change(node, start, end, f" {new} ", f"arithmetic -> {new}")
            case ast.BoolOp(op=op, values=[left, right]):
                new = "or" if isinstance(op, ast.And) else "and"
                start, end = between(left, right)
                if source[start:end].strip() in ("and", "or"):
                    yield change(node, start, end, f" {new} ", f"boolean -> {new}")
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield whole(node, ast.unparse(operand), "sign or not dropped")
            case ast.Constant(value=bool() as value):
                yield whole(node, str(not value), f"{value} -> {not value}")
            case ast.Constant(value=int() | float() as value):
                yield whole(node, repr(value + 1), f"{value} -> {value + 1}")
            case ast.If(test=test) | ast.IfExp(test=test):
                yield whole(test, f"not ({ast.unparse(test)})", "condition turned")
            case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
                yield whole(node, "pass", "statement dropped")
            case ast.keyword(arg=str(), value=ast.Constant(value=None)):
                continue
            case _:
                continue


def _is_plain(source: str, node: ast.BinOp, between: object) -> bool:
    """Numbers are meant: no text is put together, and no bracket lies between the operands."""
    texts = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    start, end = between(node.left, node.right)  # type: ignore[operator]
    return not texts and not any(bracket in source[start:end] for bracket in "()[]#")


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that compute: no annotation, text, error message, import or docstring."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom | ast.JoinedStr):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _code(child)
