"""The presets of the recipes, found in the modules' `PRESETS` tables.

Tables are read from the source, so that a name can be looked up before any recipe is imported.
"""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from longlive_core.names import did_you_mean

CONFIGS = "configs"
"""The folder of modules that hold the configs and presets of recipes."""


@dataclass(frozen=True)
class Preset:
    """One entry of a `PRESETS` table.

    Attributes:
        name: as the table has it.
        recipe: the module that runs it.
        home: the module with the table: the recipe's own, or that of its name in `configs`.
        about: the first line of what the preset says of itself.
        function: what the table has behind the name.
        package: where the modules are.
    """

    name: str
    recipe: str
    home: str
    about: str = ""
    function: str = ""
    package: str = "longlive_recipes"

    @property
    def full_name(self) -> str:
        return f"{self.recipe}.{self.name}"

    @property
    def module(self) -> ModuleType:
        """The recipe, imported."""
        return importlib.import_module(f"{self.package}.{self.recipe}")

    def build(self) -> Any:
        """The preset's frozen config; imports the module with the table alone."""
        home = importlib.import_module(f"{self.package}.{self.home}")
        make: Callable[[], Any] = home.PRESETS[self.name]
        return make()


def presets(package: ModuleType | None = None) -> list[Preset]:
    """List all presets, by recipe and in the order of its table. Imports no recipe."""
    place = package or importlib.import_module("longlive_recipes")
    found = []
    for top in map(Path, place.__path__):
        for folder, prefix in ((top / CONFIGS, f"{CONFIGS}."), (top, "")):
            for info in pkgutil.iter_modules([str(folder)]):
                file = folder / f"{info.name}.py"
                if file.is_file():
                    found += [
                        Preset(name, info.name, prefix + info.name, about, make, place.__name__)
                        for name, make, about in _table(file, top / CONFIGS / file.name)
                    ]
    return sorted(found, key=lambda preset: preset.recipe)


def find(name: str, among: list[Preset]) -> Preset:
    """Find the preset `name`, or `recipe.name` if two recipes share the name.

    Raises:
        ValueError: no preset or several have the name.
    """
    matches = [preset for preset in among if name in (preset.name, preset.full_name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(preset.full_name for preset in matches)
        raise ValueError(f"there are {len(matches)} recipes {name!r}: write {choices}.")
    names = [preset.name for preset in among]
    hint = did_you_mean(name, names)
    listed = ", ".join(dict.fromkeys(names)) or "none"
    raise ValueError(f"there is no recipe {name!r}{hint}The recipes: {listed}.")


def _table(file: Path, config: Path) -> Iterator[tuple[str, str, str]]:
    """Names in a module's `PRESETS`, each with its function and the first line of its docstring.

    The functions are the module's own, or those of the recipe's module `config`, if there is one.
    """
    source = file.read_text(encoding="utf-8")
    if "\nPRESETS = {" not in source:
        return
    body = ast.parse(source).body
    others = ast.parse(config.read_text(encoding="utf-8")).body if config.is_file() else []
    lines = {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in [*others, *body]
        if isinstance(node, ast.FunctionDef)
    }
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PRESETS":
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                make = ast.unparse(value)
                yield str(key.value), make, lines.get(make, "")
