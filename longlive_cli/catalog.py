"""The presets of the recipes: found by their `PRESETS` tables, named as they are there."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One entry of a recipe module's `PRESETS`; `build` returns its frozen config."""

    name: str
    recipe: str
    module: ModuleType
    build: Callable[[], Any]

    @property
    def full_name(self) -> str:
        return f"{self.recipe}.{self.name}"


def presets(package: ModuleType | None = None) -> list[Preset]:
    """All presets, by recipe and in the order of its table."""
    home = package or importlib.import_module("longlive_recipes")
    found = []
    for info in pkgutil.iter_modules(home.__path__):
        module = importlib.import_module(f"{home.__name__}.{info.name}")
        for name, build in vars(module).get("PRESETS", {}).items():
            found.append(Preset(name, info.name, module, build))
    return found


def find(name: str, among: list[Preset]) -> Preset:
    """The preset called `name`, or `recipe.name` where two recipes share it.

    Raises:
        ValueError: none or several are called so.
    """
    matches = [preset for preset in among if name in (preset.name, preset.full_name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(preset.full_name for preset in matches)
        raise ValueError(f"there are {len(matches)} recipes {name!r}: write {choices}.")
    names = [preset.name for preset in among]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(dict.fromkeys(names)) or "none"
    raise ValueError(f"there is no recipe {name!r}; {hint}The recipes: {listed}.")
