"""`longlive evaluate`: a model's score, or a judge's verdict on videos that are there."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from longlive_cli.messages import bad_input_is_one_sentence, show


def evaluate(
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Videos to judge; none: evaluate a model.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What to evaluate; `longlive recipes list`.")
    ] = "pocket",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a field.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of fields.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the config and evaluate nothing.")] = False,
) -> None:
    """Judge, from pixels alone, shape, colour, background, motion, cuts, steadiness and drift."""
    if videos:
        _judge(videos, as_json)
        return
    with bad_input_is_one_sentence():
        from longlive_cli.catalog import find, presets
        from longlive_cli.overrides import configure

        preset = find(recipe, [p for p in presets() if p.recipe == "evaluate"])
        wanted = configure(preset.build(), config, settings)
    if dry_run:
        show(wanted, as_json=as_json)
        return
    show(preset.module.run(wanted), as_json=as_json)


def _judge(videos: list[Path], as_json: bool) -> None:
    from longlive_recipes.video import read_video

    with bad_input_is_one_sentence():
        clips = [(path, *read_video(path)) for path in videos]
    from longlive_recipes.judge import judge
    from longlive_recipes.run_record import as_plain

    for path, frames, fps in clips:
        verdict: dict[str, Any] = as_plain(judge(frames, fps))
        if as_json:
            typer.echo(json.dumps({"video": str(path), **verdict}))
        else:
            said = ", ".join(f"{name} {value}" for name, value in verdict.items())
            typer.echo(f"{path}: {said}")
