"""`longlive recipes`: what can be trained, evaluated and generated, and with which settings."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from longlive_cli import complete
from longlive_cli.explain import Explained
from longlive_cli.messages import say, show

recipes = typer.Typer(help="List and show recipes.", no_args_is_help=True, rich_markup_mode=None)


@recipes.command(name="list", cls=Explained)
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


@recipes.command(name="show", cls=Explained)
def show_recipe(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's name, or 'generate' for what generate and live take.",
            autocompletion=complete.shown,
        ),
    ],
    with_kinds: Annotated[
        bool, typer.Option("--fields", help="A line a field: its name for --set, default, kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Print every setting of a recipe, as YAML that --config takes."""
    from longlive_cli.catalog import find, presets
    from longlive_cli.fields import fields_of, table
    from longlive_recipes.configs.generate import Generate

    config = Generate() if recipe == "generate" else find(recipe, presets()).build()
    if not with_kinds:
        show(config, as_json=as_json)
        return
    rows = list(fields_of(config))
    say(json.dumps([asdict(row) for row in rows]) if as_json else "\n".join(table(rows)))
