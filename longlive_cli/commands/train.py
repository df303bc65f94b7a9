"""`longlive train`: a recipe, changed here and there, run."""

from pathlib import Path
from typing import Annotated

import typer

from longlive_cli import complete
from longlive_cli.boundary import INTERRUPTED
from longlive_cli.messages import note, say, show


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe; they are listed below.", autocompletion=complete.recipes("train_")
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a field.",
            autocompletion=complete.recipe_fields,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of fields.")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run: its folder, or a checkpoint file.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print --dry-run's config as JSON.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the config and train nothing.")] = False,
    export: Annotated[
        bool, typer.Option(help="Write the model of --resume's checkpoint, and train nothing.")
    ] = False,
) -> None:
    """Train a model with a recipe."""
    from longlive_cli.catalog import find, presets
    from longlive_cli.overrides import configure

    preset = find(recipe, [p for p in presets() if p.recipe.startswith("train_")])
    wanted = configure(preset.build(), config, settings)
    if export and resume is None:
        raise ValueError("--export writes the model of a run: name it with --resume RUN.")
    if export and not dry_run:
        say(str(preset.module.export(wanted, resume=resume)))
        return
    if not dry_run:
        preset.module.check(wanted, resume=resume)
    if dry_run:
        show(wanted, as_json=as_json)
        return
    try:
        result = preset.module.run(wanted, resume=resume)
    except KeyboardInterrupt:
        note(f"longlive: interrupted; go on with --resume {wanted.run.output}.")
        raise typer.Exit(INTERRUPTED) from None
    from longlive_recipes.parallel import is_first_process

    if is_first_process():
        say(str(result))
