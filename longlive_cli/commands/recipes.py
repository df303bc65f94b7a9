"""`longlive recipes`: what can be trained, evaluated and generated, and with which settings."""

import json
from typing import Annotated

import typer

from longlive_cli.messages import say, show

recipes = typer.Typer(help="List and show recipes.", no_args_is_help=True, rich_markup_mode=None)


@recipes.command(name="list")
def list_recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Name every recipe, with the first line of what it says of itself."""
    from longlive_cli.catalog import presets

    rows = [
        {"recipe": preset.name, "module": preset.recipe, "about": preset.about}
        for preset in presets()
    ]
    if as_json:
        say(json.dumps(rows))
        return
    width = max((len(row["recipe"]) for row in rows), default=0)
    module_width = max((len(row["module"]) for row in rows), default=0)
    for row in rows:
        say(f"{row['recipe']:{width}}  {row['module']:{module_width}}  {row['about']}")


@recipes.command(name="show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Print every setting of a recipe."""
    from longlive_cli.catalog import find, presets

    show(find(recipe, presets()).build(), as_json=as_json)
