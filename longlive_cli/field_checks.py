"""The checks of a config's fields, made for one field before the config's parts are imported.

A config holds its fields to bounds when it is made, by calls such as
``whole_field(self, "seed", at_least=0, why=...)`` that ``__post_init__`` makes. They are read from
the source and made here, on a stand-in that has the field alone. Calls that depend on anything but
the field and constants, on another field say, are left to the config.
"""

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from longlive_cli.source_code import SourceClass, constant, find_function
from longlive_core import checks
from longlive_recipes.configs import checked

_OF_ONE: Mapping[str, Callable[..., None]] = {
    "whole_field": checked.whole_field,
    "real_field": checked.real_field,
    "choice_field": checked.choice_field,
}
_OF_SEVERAL: Mapping[str, Callable[..., None]] = {
    "hold_wholes": checks.hold_wholes,
    "hold_reals": checks.hold_reals,
}


def check_field(config: SourceClass, field: str, value: Any) -> None:
    """Raise the ValueError that a config would raise for a field that has this value."""
    stand_in = type(config.name, (), {})()
    vars(stand_in)[field] = value
    made = config.method("__post_init__")
    if made is not None:
        holder, method = made
        _Reader(field, stand_in, holder.module, config, holder).read(method.body, {})


@dataclass(frozen=True)
class _Reader:
    """Goes through the statements of a method, or of a function that is given the config.

    Attributes:
        field: the field that is checked; ``stand_in`` has nothing else.
        module: where the statements are.
        config: the class of the config.
        holder: the class whose method it is.
        me: what the statements call the config.
    """

    field: str
    stand_in: object
    module: str
    config: SourceClass
    holder: SourceClass
    me: str = "self"

    def read(self, body: Iterable[ast.stmt], known: Mapping[str, Any]) -> None:
        """Make the checks of the field that these statements make under no condition.

        ``known`` has the values of local names.
        """
        known = dict(known)
        for line in body:
            match line:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    known.pop(name, None)
                    known |= self._values({name: value}, known)
                case ast.For(target=target, iter=values, body=inner):
                    for entry in self._values({"": values}, known).get("", ()):
                        self.read(inner, known | _unpacked(target, entry))
                case ast.If(test=test, body=inner):
                    if self._is_given(test):
                        self.read(inner, known)
                    elif any(isinstance(part, ast.Return) for part in ast.walk(line)):
                        return
                case ast.Expr(value=ast.Call() as call):
                    self._make(call, known)

    def _make(self, call: ast.Call, known: Mapping[str, Any]) -> None:
        match call:
            case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=self.me)]):
                self._follow(name)
            case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=self.me), named, *rest]):
                self._check(name, named, rest, call.keywords, known)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=self.me), attr=name), args=[]):
                self._into(self.config.method(name))
            case ast.Call(
                func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name), args=[]
            ):
                above = (base.method(name) for base in self.holder.bases)
                self._into(next((found for found in above if found), None))

    def _check(
        self,
        name: str,
        named: ast.expr,
        rest: list[ast.expr],
        keywords: list[ast.keyword],
        known: Mapping[str, Any],
    ) -> None:
        """Make a check, with the bounds that are known, if what it says is known whole."""
        check = _OF_ONE.get(name) or _OF_SEVERAL.get(name)
        given = self._values({word.arg or "": word.value for word in keywords}, known)
        others = self._values({str(place): part for place, part in enumerate(rest)}, known)
        fields = self._values({"": named}, known).get("")
        if check is None or "why" not in given or len(others) < len(rest) or fields is None:
            return
        if any(word.arg == "at_most" for word in keywords):
            given.setdefault("at_most", vars(self.stand_in)[self.field])  # it is not known
        if self.field in (fields.split() if name in _OF_SEVERAL else [fields]):
            check(self.stand_in, self.field, *others.values(), **given)

    def _values(
        self, expressions: Mapping[str, ast.expr], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What these expressions stand for; those that take more to know are left out."""
        found = {}
        for name, expression in expressions.items():
            try:
                found[name] = constant(expression, self.module, known)
            except LookupError:
                continue
        return found

    def _is_given(self, test: ast.expr) -> bool:
        """Whether a condition is that the field is not None, and it is not."""
        return (
            ast.unparse(test) == f"{self.me}.{self.field} is not None"
            and vars(self.stand_in)[self.field] is not None
        )

    def _into(self, found: tuple[SourceClass, ast.FunctionDef] | None) -> None:
        if found is not None:
            holder, method = found
            inside = replace(self, module=holder.module, holder=holder, me="self")
            inside.read(method.body, {})

    def _follow(self, name: str) -> None:
        found = find_function(self.module, name)
        if found is not None:
            module, function = found
            inside = replace(self, module=module, me=function.args.args[0].arg)
            inside.read(function.body, {})


def _unpacked(target: ast.expr, entry: Any) -> dict[str, Any]:
    """The names that a loop gives values to."""
    if isinstance(target, ast.Tuple):
        pairs = zip(target.elts, entry, strict=True)
        return {name: value for part, one in pairs for name, value in _unpacked(part, one).items()}
    return {target.id: entry} if isinstance(target, ast.Name) else {}
